# The package with its dependencies, without compilers. This file has been built nowhere yet: expect to mend it.
#   docker build -t tmt .                          for the CPU
#   docker build -t tmt:cuda --build-arg KIND=cuda .    with CUDA kernels; run it with --gpus all
ARG KIND=cpu

FROM ubuntu:24.04 AS build-cpu
ENV TMT_CUDA=0

FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS build-cuda
ENV TMT_CUDA=1 TORCH_CUDA_ARCH_LIST="8.0;8.6;8.9;9.0+PTX;12.0+PTX"

FROM build-${KIND} AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ python3-dev python3-venv \
  && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /venv
COPY . /source
# The build needs torch's headers alone, which are the same in every kind of it.
RUN PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu \
  /venv/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source

# torch's own wheels bring the CUDA libraries, so that this needs none.
FROM ubuntu:24.04 AS run-cpu
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

FROM ubuntu:24.04 AS run-cuda

FROM run-${KIND}
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
COPY --from=build /wheels /wheels
COPY constraints.txt /
RUN python3 -m venv /venv && /venv/bin/pip install --no-cache-dir -c /constraints.txt /wheels/*.whl
RUN useradd --create-home tmt
USER tmt
WORKDIR /home/tmt
ENV PATH=/venv/bin:$PATH
ENTRYPOINT ["tmt"]
