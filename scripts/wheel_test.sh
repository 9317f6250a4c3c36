#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Installs a wheel with its dependencies in a new environment with one torch, and tests it outside of the source tree: the
# operators' tests, the command line from a simulated scan to a reconstruction, and doctor.
#
#   scripts/wheel_test.sh dist/ptychopinn-0.1.0-cp311-cp311-linux_x86_64.whl [TORCH]      TORCH: 2.13.0, or newest
#
# PYTHON chooses the interpreter; CONSTRAINTS a file of versions for pip (requirements-lowest.txt: the lowest that are
# supported); PIP_INDEX_URL, PIP_EXTRA_INDEX_URL and PIP_FIND_LINKS where torch is found, for example a CPU build.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
wheel=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
torch=${2:-2.13.0}
constraints=${CONSTRAINTS:+--constraint $(cd "$(dirname "$CONSTRAINTS")" && pwd)/$(basename "$CONSTRAINTS")}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/venv"
pip="$work/venv/bin/pip --disable-pip-version-check install --quiet"
if [ "$torch" = newest ]; then $pip torch; else $pip "torch==$torch"; fi
# shellcheck disable=SC2086  # several words
$pip $constraints "$wheel" pytest hypothesis hdf5plugin tifffile
"$work/venv/bin/python" -m pip --disable-pip-version-check check
cp -r "$root/tests" "$work/tests"
cp "$root/pyproject.toml" "$work"
cd "$work"
PATH=$work/venv/bin:$PATH
python -c "
import ptycho_ext, torch, lightning, numpy
assert '$work' in ptycho_ext.__file__, ptycho_ext.__file__
print('python', __import__('platform').python_version(), 'torch', torch.__version__, 'lightning', lightning.__version__,
      'numpy', numpy.__version__, 'operators built under', ptycho_ext.build_info()['torch_version'])"
ptychopinn doctor
ptychopinn simulate scan.npz --patterns 196 --size 32 --photons 1e5 --seed 3
ptychopinn reconstruct scan.npz --out first.h5
ptychopinn train scan.npz --out run --epochs 1
ptychopinn reconstruct run scan.npz --out recon.h5
ptychopinn evaluate recon.h5 scan.npz
cd tests
python -m pytest -q -p no:cacheprovider ext --ignore ext/test_build.py
echo "the wheel passed under torch $torch"
