#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Builds one wheel with the first torch, and runs the operators' tests with it under each torch. The stable ABI
# guarantees that this works from its target version (2.10) on. Not part of `make test`, because it downloads torch.
#
#   scripts/abi_check.sh [OTHER_TORCH] [BUILD_TORCH]     defaults: 2.14.1 and 2.13.0
#
# PIP_INDEX_URL or PIP_EXTRA_INDEX_URL select the index of torch, for example a CPU-only one; PYTHON the interpreter.
set -eu
other=${1:-2.14.1}
build=${2:-2.13.0}
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for torch in "$build" "$other"; do
  venv=$work/torch-$torch
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/pip" install --quiet "torch==$torch" 'numpy>=2' pytest hypothesis
  if [ "$torch" = "$build" ]; then
    "$venv/bin/pip" install --quiet 'scikit-build-core>=0.11' 'pybind11>=2.13' ninja
    "$venv/bin/pip" wheel --quiet --no-build-isolation --no-deps -C build-dir="$work/build" --wheel-dir "$work" "$root"
  fi
  "$venv/bin/pip" install --quiet --no-deps "$work"/ptychopinn-*.whl
  # Outside the source tree, so that nothing but the wheel can be imported. The golden tests need the whole library.
  cp -r "$root/tests" "$work/tests-$torch"
  (cd "$work" && "$venv/bin/python" -c "
import ptycho_ext, torch
print('torch', torch.__version__, 'with operators built under', ptycho_ext.build_info()['torch_version'])")
  (cd "$work/tests-$torch" && "$venv/bin/python" -m pytest -q -p no:cacheprovider ext \
    --ignore ext/test_golden.py --ignore ext/test_build.py)
done
echo "one wheel passed under torch $build and $other"
