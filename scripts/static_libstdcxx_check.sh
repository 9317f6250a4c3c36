#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Builds the libraries with static libstdc++ and libgcc, as toolchains without a shared libstdc++ do, and runs the
# operators' tests with them. Two things fail in such builds: iostreams (std::ostream::_M_insert crashes), which native
# code here must not use, and exceptions with a second unwinder, see csrc/runtime/errors.cpp.
#
#   scripts/static_libstdcxx_check.sh
#
# PYTHON chooses the interpreter: one with torch, pytest, hypothesis, numpy, pybind11, scikit-build-core, cmake, ninja.
# CMAKE_ARGS adds CMake options, for example -DPTYCHO_CUDA=OFF for a faster build.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=$("${PYTHON:-python3}" -c "import sys; print(sys.executable)")
PATH=$(dirname "$python"):$PATH
export PATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
site=$work/site

LDFLAGS="-static-libstdc++ -static-libgcc ${LDFLAGS:-}" "$python" -m pip --disable-pip-version-check install --quiet \
  --no-index --no-build-isolation --no-deps --target "$site" -C build-dir="$work/build" "$root"
for library in "$site"/ptycho_ext/*.so; do
  if readelf -d "$library" | grep -q 'NEEDED.*libstdc++'; then
    echo "$library still needs libstdc++.so.6" >&2
    exit 1
  fi
  echo "$(basename "$library") needs: $(readelf -d "$library" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | tr '\n' ' ')"
done

# Outside the source tree and in front of an editable install, whose import hook -S omits.
cp -r "$root/tests" "$root/pyproject.toml" "$work"
cd "$work/tests"
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$site:$("$python" -c 'import sys; print(":".join(p for p in sys.path if p))')" \
  "$python" -S -c "
import sys, ptycho_ext, pytest
assert ptycho_ext.__file__.startswith('$site'), ptycho_ext.__file__
options = ['-q', '-p', 'no:cacheprovider', '--ignore', 'ext/test_golden.py', '--ignore', 'ext/test_build.py']
sys.exit(pytest.main([*options, 'ext']))"
echo "the operators passed with libstdc++ linked statically"
