#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Times versions of the CUDA kernels that counting alone could not decide between, each built from a copy of the sources
# in which one line is changed, compared with the CPU bit by bit, and then timed. On a machine like that of gpu_check.sh.
#
#   benchmarks/gpu_variants.sh [FOLDER] [VARIANT...]    logs and tables by variant; default: gpu-variants, all of them
#
# PYTHON chooses the interpreter, TORCH_CUDA_ARCH_LIST the architectures (default: that of the first GPU). A minute or two
# for each.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-gpu-variants}
[ $# -gt 0 ] && shift
mkdir -p "$out" && out=$(cd "$out" && pwd)
python=$("${PYTHON:-python3}" -c "import sys; print(sys.executable)") || exit 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ "${DRY_RUN:-}" != 1 ]; then
  TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')}
  export TORCH_CUDA_ARCH_LIST
fi
export PYTHONDONTWRITEBYTECODE=1

# NAME|FILE|what sed does to it. One wave or lower registers, more warps or fewer instructions, reads ahead.
variants='as-built|csrc/maths/blocks/sum.h|
never-crowded|csrc/maths/blocks/waves.h|s/10 \* slots(blocks, crowded) < 9/1000 * slots(blocks, crowded) < 9/
always-crowded|csrc/maths/blocks/waves.h|s/10 \* slots(blocks, crowded) < 9/0 * slots(blocks, crowded) < 9/
weighted-rows-4|csrc/maths/blocks/sum.h|s/kRows = 8;/kRows = weighted ? 4 : 8;/; s/weighted ? (lanes == 2 ? 4 : 6)/weighted ? 4/; s/weighted ? (lanes == 2 ? 5 : 8)/weighted ? 0/
extract-4-3-blocks|csrc/maths/blocks/extract.h|s/lanes == 2 || weighted ? 4 : 5/lanes == 2 ? 3 : 4/
gradient-6-4-blocks|csrc/ops/extract_patches/position_gradient.h|s/lanes == 2 ? 5 : Grads::kStored ? 7 : 6/lanes == 2 ? 4 : 6/
waves-2-blocks|csrc/ops/exit_waves/blocks.h|s/(lanes == 2 ? 1 : 2) : 3/(lanes == 2 ? 1 : 2) : 2/'

failed=
names=${*:-$(echo "$variants" | cut -d'|' -f1)}
for name in $names; do
  line=$(echo "$variants" | grep "^$name|") || { echo "there is no variant $name"; exit 2; }
  file=$(echo "$line" | cut -d'|' -f2) change=$(echo "$line" | cut -d'|' -f3-)
  tree=$work/$name log=$out/$name.log
  mkdir -p "$tree" "$out/$name"
  (cd "$root" && cp -r CMakeLists.txt README.md LICENSE pyproject.toml cmake csrc ptycho_ext python "$tree")
  rm -f "$tree"/ptycho_ext/*.so
  [ -n "$change" ] && sed -i "$change" "$tree/$file"
  if [ -n "$change" ] && cmp -s "$root/$file" "$tree/$file"; then
    echo "== $name: the line that it changes is not in $file"
    failed="$failed $name"
    continue
  fi
  [ "${DRY_RUN:-}" = 1 ] && echo "== $name: differs" && continue
  if timeout 200 "$python" -m pip install --quiet --no-index --no-build-isolation --no-deps --target "$work/site-$name" \
    -C build-dir="$tree/build" -C cmake.define.PTYCHO_CUDA=ON "$tree" > "$log" 2>&1 &&
    cp -r "$root/tests" "$root/benchmarks" "$root/pyproject.toml" "$work/site-$name/" &&
    cd "$work/site-$name/tests" &&
    PYTHONPATH="$work/site-$name" timeout 200 "$python" -m pytest -q -p no:cacheprovider -m gpu ext/test_cuda.py \
      -k "bits_of_the_cpu or one_wave" >> "$log" 2>&1 &&
    PYTHONPATH="$work/site-$name" timeout 200 "$python" "$work/site-$name/benchmarks/gpu.py" --no-peers \
      --case 5000x64-1000 --case 100000x64-8192 --case waves-20000x3x64-4096 --out "$out/$name" >> "$log" 2>&1; then
    echo "== $name: right; its times:"
    grep " ours " "$log"
  else
    echo "== $name: FAILED, see $log"
    failed="$failed $name"
  fi
done
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
