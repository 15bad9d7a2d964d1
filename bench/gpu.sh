#!/usr/bin/env bash
# On a machine with a GPU, nvcc and a torch with CUDA, in two calls of at most 8 minutes each:
#   bench/gpu.sh 1   versions, build, the GPU tests, the operators' own times (eager and as CUDA graphs), ncu
#   bench/gpu.sh 2   compute-sanitizer on few shapes, then times against peers, eager ones first
# $OUT (bench/results) keeps it as it comes: gpu-<device>-<call>.log what the steps print, .jsonl the rows, which .json and
# .md are made of.
# --dry-run prints the steps with their seconds instead; PYTHON=python3.12 takes another Python. Ends with 1 if a step fails.
set -uo pipefail
export OUT=$(realpath -m "${OUT:-$(dirname "$0")/results}")
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
export PATH="$(dirname "$(command -v "$PYTHON")"):$PATH:${CUDA_HOME:-/usr/local/cuda}/bin" PYTHONPATH="$PWD/python:$PWD:${PYTHONPATH:-}"
ERRORS='\berror\b[ :]|Error\b|FAILED|FAILURES|Traceback|undefined|========= (Invalid|Uninitialized|Race|Program hit)'
failed=0

# keep NAME VALUE: puts a line about this run beside its rows.
keep() {
  printf '{"environment": {"%s": "%s"}}\n' "$1" "$2" >> "$rows"
}

# first_error: of a step's output, the first line that speaks of an error, what surrounds it, and the end.
first_error() {
  local text line
  text=$(cat)
  line=$(grep -n -m1 -E "$ERRORS" <<< "$text" | cut -d: -f1)
  line=${line:-5}
  sed -n "$((line > 4 ? line - 4 : 1)),$((line + 30))p" <<< "$text"
  echo "[...]"
  tail -n 3 <<< "$text"
  echo "all of it: $base.log"
}

outcome() {
  case $1 in
    0) echo ok ;;
    124 | 137) echo "failed: out of time" ;;
    *) echo "failed ($1)" ;;
  esac
}

# step NAME SECONDS COMMAND...: runs it within its time. Returns 1 where it fails.
step() {
  local name=$1 seconds=${STEP_SECONDS:-$2} begin=$SECONDS status=0 show=first_error came from
  shift 2
  if [ "$dry" ]; then
    echo "$name $seconds $*"
    return
  fi
  echo "== $name: $*" | tee -a "$base.log"
  from=$(($(wc -l < "$base.log") + 1))
  timeout --signal=INT --kill-after=3 "$seconds" "$@" >> "$base.log" 2>&1 || status=$?
  came="$(outcome $status), $((SECONDS - begin)) s"
  [ $status = 0 ] && show="tail -n 12"
  tail -n +$from "$base.log" | $show
  echo "== $name: $came" | tee -a "$base.log"
  keep "$name" "$came"
  [ $status = 0 ] || { failed=1; return 1; }
}

# tool_step TOOL NAME SECONDS COMMAND...: the same, where the tool is installed.
tool_step() {
  local tool=$1
  shift
  if [ "$dry" ] || command -v "$tool" > /dev/null; then
    step "$@"
  else
    echo "== $1: not run, no $tool on PATH" | tee -a "$base.log"
    keep "$1" "not run: no $tool"
  fi
}

# Without kernels nothing else can be known: the call ends.
need() {
  step "$@" || finish
}

finish() {
  step tables 15 "$PYTHON" -m bench.rows "$rows"
  [ "$dry" ] || echo "kept in $base.*"
  exit $failed
}

build_and_measure() {
  step versions 10 nvcc --version
  need build 150 env TMT_CUDA=1 "$PYTHON" setup.py build_ext --inplace
  need loaded 30 "$PYTHON" -m bench.loaded
  step tests 130 env TMT_REQUIRE_GPU=1 "$PYTHON" -m pytest -q --durations 5 -m gpu tests/ops
  step own 65 "$PYTHON" -m bench.gpu own --rows "$rows" --seconds 50
  tool_step ncu ncu 50 "$PYTHON" -m bench.gpu profile
}

# Without torch's cache every tensor is an allocation of its own, so that reading past its end is seen.
watch_and_compare() {
  local watched=(env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 9)
  need loaded 30 "$PYTHON" -m bench.loaded
  tool_step compute-sanitizer memcheck 90 "${watched[@]}" --tool memcheck "$PYTHON" -m bench.gpu exercise
  tool_step compute-sanitizer racecheck 110 "${watched[@]}" --tool racecheck "$PYTHON" -m bench.gpu exercise
  step eager 100 "$PYTHON" -m bench.gpu eager --rows "$rows" --seconds 85
  step compiled 100 "$PYTHON" -m bench.gpu compiled --rows "$rows" --seconds 70
}

call=${1:-}
[ "${2:-}" = --dry-run ] && dry=1 || dry=
case $call in
  1 | 2) ;;
  *) sed -n '2,7s/^# //p' "$0" >&2; exit 2 ;;
esac
device=any
if [ ! "$dry" ] && ! device=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>&1); then
  echo "gpu.sh: no GPU found: $device" >&2
  exit 1
fi
base="$OUT/gpu-$(head -n 1 <<< "$device" | tr -cs '[:alnum:]\n' -)-$call" rows="$base.jsonl"
if [ ! "$dry" ]; then
  mkdir -p "$OUT"
  : > "$rows"
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$base.log"
fi
if [ "$call" = 1 ]; then build_and_measure; else watch_and_compare; fi
finish
