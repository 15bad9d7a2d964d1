# Two commands for a fresh clone: `make demo` and `make test`. They need Python 3.10+, g++ and make; the rest they install
# into a virtual environment of their own. CI sets VENV to test in another one.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo
SOURCES := $(wildcard csrc/*.* csrc/*/*.* csrc/*/*/* cmake/* tmt_ext/*.py) CMakeLists.txt setup.py pyproject.toml constraints.txt
CXX_FILES := $(wildcard csrc/*.cpp csrc/*/*.h csrc/*/*/*.h csrc/*/*/*.cpp csrc/*/*/*.cu csrc/*/*/*.cuh cmake/*.cpp \
	tests/cuda_emulation/*.* tests/cuda_emulation/*/*/*.*)

# Processes that share the tests, by file, in the order of tests/conftest.py; each computes in one thread, or they would wait
# for each other.
WORKERS ?= 2
SPREAD := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

SANITIZERS := address,undefined
SANITIZED := build/sanitized

.PHONY: help install demo test sanitize kernels oldest-torch cuda-torch tools docs wheel wheels wheels-cuda lint format bench bench-gpu clean

help:
	@echo "make demo     install into $(VENV), train source -> estimator -> target on synthetic streets, show the table"
	@echo "make test     install into $(VENV), check style and types, run every test"
	@echo "make wheel    source distribution and wheel in dist/, tried in a new environment;  make wheels  as published, in containers"
	@echo "make lint     check style and types only;  make format  mend style"
	@echo "make sanitize  the operators' tests once more, watched by AddressSanitizer and UBSan"
	@echo "make kernels  what the compilers made of the kernels: ARM, CUDA registers, spills and instructions"
	@echo "make oldest-torch  the CUDA kernels against the oldest torch;  make cuda-torch  loaded under a torch with CUDA"
	@echo "make bench    time operators and whole models against plain PyTorch and transformers, idle and contended"
	@echo "make bench-gpu  on a machine with a GPU: build, test, profile, sanitize, time; bench/gpu.sh 1 and 2"
	@echo "make tools    transformers' Trainer and peft with our model"
	@echo "make docs     the documentation as web pages, build/site/index.html"
	@echo "make clean    remove build products (keeps $(VENV) and runs)"

# Editable, so that edits in python/ and tmt_ext/ count at once; csrc/ changes rebuild through SOURCES.
$(VENV)/.installed: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch setuptools cmake ninja
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e ".[test]"
	touch $@

install: $(VENV)/.installed

demo: install
	$(BIN)/python -m tmt.train --config demo-imagenet --out $(DEMO) --resume
	@echo "Table: $(DEMO)/results.md   pictures: $(DEMO)/pictures"

test: lint
	$(SPREAD) --durations 30 tests

# The CPU kernels in a build of their own, and the emulated CUDA kernels. The edges of the tensor-core superpixels are left
# to `make test`: they take minutes here; so are the tests that plant faults, which sanitizers end,
# and those of the report on traffic, which run no kernel of this build.
sanitize: install
	TMT_SANITIZE=$(SANITIZERS) TMT_CUDA=0 PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install --quiet --upgrade \
		--no-deps --no-build-isolation --target $(SANITIZED) .
	TMT_SANITIZE=$(SANITIZERS) LD_PRELOAD="$$(g++ -print-file-name=libasan.so):$$(g++ -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 TMT_FUZZ_CASES=50 PYTHONPATH=$(SANITIZED) GOMP_SPINCOUNT=2000 \
		$(BIN)/pytest -n $(WORKERS) --dist loadfile tests/ops \
		--ignore tests/ops/test_cuda_superpixel.py --ignore tests/ops/test_cuda_planted_faults.py \
		--ignore tests/ops/test_cuda_emulation.py --ignore tests/ops/test_kernel_traffic.py

kernels: install
	$(BIN)/python -m pip install --quiet -c constraints.txt --group kernels
	$(BIN)/python -m pytest tests/test_arm.py
	test ! -e tmt_ext/libtmt_cuda.so || $(BIN)/python -m bench.build_report

# Both need what `install` built with CUDA, and the network: 0.9 GB and 3 GB of wheels, removed afterwards.
oldest-torch: install
	.ci/oldest-torch $(BIN)/python

cuda-torch: install
	.ci/cuda-torch $(BIN)/python

tools: install
	$(BIN)/python -m pip install --quiet -c constraints.txt --group tools
	$(BIN)/python -m pytest -q tests/test_other_tools.py

wheel: install
	$(BIN)/python -m pip install --quiet -c constraints.txt --group wheel
	.ci/wheel $(BIN)/python

# What is published, for the system they run on; on Linux both need Docker.
wheels:
	$(PYTHON) -m pip install --quiet -c constraints.txt cibuildwheel
	$(PYTHON) -m cibuildwheel --output-dir dist

wheels-cuda:
	$(PYTHON) -m pip install --quiet -c constraints.txt cibuildwheel
	$(PYTHON) -m cibuildwheel --config-file .ci/cibuildwheel-cuda.toml --output-dir dist/cuda

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

docs: install
	$(BIN)/python -m pip install --quiet -c constraints.txt --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

bench: install
	$(BIN)/python -m pip install --quiet -c constraints.txt --group bench
	$(BIN)/python -m bench
	$(BIN)/python -m bench.contended
	$(BIN)/python -m bench.growth
	$(BIN)/python -m bench.residency
	$(BIN)/python -m bench.large_image

bench-gpu:
	bash bench/gpu.sh 1; first=$$?; bash bench/gpu.sh 2 && exit $$first

clean:
	rm -rf build dist *.egg-info tmt_ext/*.so $(VENV)/.installed
