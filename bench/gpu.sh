#!/usr/bin/env bash
# On a machine with a GPU, nvcc and a torch with CUDA: builds for that GPU, runs the CUDA tests, runs compute-sanitizer on
# small sizes, times the operators against their peers, and prints one table last. Under 10 minutes; writes
# bench/results/gpu-<device>.{json,md}.   Usage: bench/gpu.sh     (PYTHON=python3.12 bench/gpu.sh for another Python)
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
export PATH="$(dirname "$(command -v "$PYTHON")"):/usr/local/cuda/bin:$PATH" PYTHONPATH="$PWD/python:$PWD"

# step NAME SECONDS COMMAND...: runs it within its time, keeps its last lines and its outcome.
declare -a notes
step() {
  local name=$1 seconds=$2 begin=$SECONDS outcome=ok
  shift 2
  echo "== $name: $*"
  timeout "$seconds" "$@" > "build/gpu-$name.log" 2>&1 || outcome="failed ($?)"
  tail -n 15 "build/gpu-$name.log"
  echo "== $name: $outcome, $((SECONDS - begin)) s"
  notes+=(--note "$name=$outcome, $((SECONDS - begin)) s")
  [ "$outcome" = ok ]
}

mkdir -p build
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || { echo "gpu.sh: no GPU found" >&2; exit 1; }
TMT_CUDA=1 step build 180 "$PYTHON" setup.py build_ext --inplace || exit 1
failed=0
step tests 100 "$PYTHON" -m pytest -q tests/ops/test_cuda.py || failed=1
if command -v compute-sanitizer > /dev/null; then
  # Without torch's cache every tensor is an allocation of its own, so that reading past its end is seen.
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  step memcheck 80 compute-sanitizer --tool memcheck --error-exitcode 9 "$PYTHON" -m bench.gpu --exercise || failed=1
  step racecheck 100 compute-sanitizer --tool racecheck --error-exitcode 9 "$PYTHON" -m bench.gpu --exercise || failed=1
  unset PYTORCH_NO_CUDA_MEMORY_CACHING
else
  notes+=(--note "memcheck=not run: no compute-sanitizer" --note "racecheck=not run: no compute-sanitizer")
fi
timeout 140 "$PYTHON" -m bench.gpu --seconds 100 --out bench/results "${notes[@]}" || failed=1
exit $failed
