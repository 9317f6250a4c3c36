#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# All checks that need a GPU, without a network: builds the operators for the present GPU outside of the source tree,
# runs the contract and parity tests, checks one short run of every kernel with compute-sanitizer, and times the
# operators. Then the library: its tests on a GPU, the pipeline from a file to an image, our refinement and LSQML of
# pty-chi on the same scans, and, where there are two GPUs, the same by two processes as by one.
#
# Needs python3 with torch (CUDA build), numpy, pytest, hypothesis, pybind11, scikit-build-core, ninja, cmake, and nvcc;
# for the library its dependencies (requirements.txt); pty-chi if it is to be compared (benchmarks/refine_peer.py). The
# time limits of the operators' steps add up to 10 minutes, those of the library's to 8. A step that fails does not stop
# the following ones; a step that is stopped keeps its log and its tables' rows.
#
#   benchmarks/gpu_check.sh [FOLDER]     logs, tables, and steps.txt with each step's outcome; default: gpu-check
#
# PYTHON chooses the interpreter, TORCH_CUDA_ARCH_LIST the architectures (default: that of the first GPU).
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-gpu-check}
mkdir -p "$out" && out=$(cd "$out" && pwd)
: > "$out/steps.txt"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=$("${PYTHON:-python3}" -c "import sys; print(sys.executable)") || exit 2
failed=

step() {  # step NAME SECONDS COMMAND...: writes a log, and prints its end, its time and whether it passed
  name=$1 limit=$2
  shift 2
  begin=$(date +%s)
  if timeout "$limit" "$@" > "$out/$name.log" 2>&1; then state=passed; else state="FAILED ($?)"; failed="$failed $name"; fi
  tail -n "${lines:-5}" "$out/$name.log"
  echo "== $name: $state, $(($(date +%s) - begin)) s" | tee -a "$out/steps.txt"
}

capability=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())') || exit 2
TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$capability}
export TORCH_CUDA_ARCH_LIST
export PYTHONUNBUFFERED=1  # so that the log of a stopped step is complete
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2> /dev/null
"$python" -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda)'

step build 100 "$python" -m pip install --quiet --no-index --no-build-isolation --no-deps --target "$work/site" \
  -C build-dir="$work/build" -C cmake.define.PTYCHO_CUDA=ON "$root"
find "$work/build" -name "*.ptxas" -exec cat {} + > "$out/ptxas.log" 2> /dev/null

# Outside of the source tree, whose packages contain no libraries.
cp -r "$root/tests" "$root/benchmarks" "$root/pyproject.toml" "$work"
cd "$work/tests" || exit 2
export PYTHONPATH="$work/site"
export PYTHONDONTWRITEBYTECODE=1
step import 30 "$python" -c 'import sys, ptycho_ext
from ptychopinn.runtime.doctor import check_operators
print(ptycho_ext.build_info())
assert ptycho_ext.build_info()["cuda"]
sys.exit(check_operators())'
step tests 110 "$python" -m pytest -q -p no:cacheprovider -m gpu ext
for tool in memcheck racecheck initcheck; do
  # Without torch's caching allocator, so that the bounds of every tensor are checked. Only our kernels are checked, except
  # by initcheck, which needs all writes.
  filter='--kernel-name kns=ptycho'
  [ "$tool" = memcheck ] && filter="$filter --report-api-errors no"
  [ "$tool" = initcheck ] && filter=
  # shellcheck disable=SC2086
  step "$tool" 60 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 9 $filter \
    --target-processes application-only "$python" -m pytest -q -p no:cacheprovider -m gpu ext/test_cuda.py -k a_short_run
done
lines=60 step benchmark 130 "$python" "$work/benchmarks/gpu.py" --out "$out"

lines=20 step pattern-step 50 "$python" "$work/benchmarks/pattern_step.py" --device cuda --patterns 10000 --json "$out/pattern-step.json"

step library 60 "$python" -m pytest -q -p no:cacheprovider -m gpu ptychopinn
lines=60 step pipeline 160 "$python" "$work/benchmarks/pipeline.py" --device cuda --limit 120 --out "$out"
lines=20 step race 190 "$python" "$work/benchmarks/race.py" --device cuda --out "$out"
if [ "$("$python" -c 'import torch; print(torch.cuda.device_count())')" -ge 2 ]; then
  step two-devices 70 "$python" "$work/benchmarks/two_devices.py" --out "$out"  # starts torchrun
else
  echo "== two-devices: skipped, as there is one GPU" | tee -a "$out/steps.txt"
fi
cat "$out"/*.md 2> /dev/null
if [ -n "$failed" ]; then
  echo "failed:$failed"
  exit 1
fi
echo "everything passed"
