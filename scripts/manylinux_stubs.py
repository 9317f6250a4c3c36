# SPDX-License-Identifier: BSD-3-Clause
"""Make link-time stubs so that a build on a newer Linux needs an older C library only, as wheels for manylinux do.

    python scripts/manylinux_stubs.py FOLDER [2.28]

Since glibc 2.34 functions of libdl, libpthread and librt are in libc, in a new version beside the former one, and a
linker takes the new version: the result does not load where glibc is older, for the number of the version alone. The
stubs are libraries of the former names with the former versions, read from the C library at hand; they are linked
against and never loaded. What a newer libstdc++ takes from a newer C library is defined in the libraries themselves.
Prints what LDFLAGS must be.

The images of manylinux, which the releases are built in, need none of this (.github/workflows/wheels.yml).
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

#: Beginnings of names -> the library that had them before glibc 2.34.
_FORMER = {
    "dl": "libdl.so.2",
    "pthread_": "libpthread.so.0",
    "__pthread_": "libpthread.so.0",
    "sem_": "libpthread.so.0",
    "shm_": "librt.so.1",
}
#: What libstdc++ takes from a newer C library, for the libraries themselves: threads are always counted with, and
#: std::random_device, which nothing here uses, has the kernel's numbers.
_OWN = """
#include <sys/random.h>
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
__attribute__((visibility("hidden"))) unsigned arc4random(void) {
  unsigned value = 0;
  while (getrandom(&value, sizeof value, 0) != sizeof value) {}
  return value;
}
"""
_SYMBOL = re.compile(r"\s\(?GLIBC_([\d.]+)\)?\s+(\w+)$")


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def versions_of(listing: str) -> dict[str, list[str]]:
    """Versions of every symbol in a listing of `objdump -T`, ascending."""
    found: dict[str, set[str]] = defaultdict(set)
    for line in listing.splitlines():
        match = _SYMBOL.search(line)
        if match is not None:
            found[match[2]].add(match[1])
    return {name: sorted(versions, key=_number) for name, versions in found.items()}


def stubs_of(versions: dict[str, list[str]], glibc: str) -> dict[str, dict[str, list[str]]]:
    """Library -> version -> symbols that are newer than `glibc` and were in this library before."""
    stubs: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, known in versions.items():
        former = [version for version in known if _number(version) <= _number(glibc)]
        library = next((library for start, library in _FORMER.items() if name.startswith(start)), None)
        if library is not None and former and _number(known[-1]) > _number(glibc):
            stubs[library][former[-1]].append(name)
    return stubs


def main(folder: Path, glibc: str) -> None:
    """Write the stubs into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    libc = subprocess.run(["gcc", "-print-file-name=libc.so.6"], capture_output=True, text=True, check=True)
    listing = subprocess.run(["objdump", "-T", libc.stdout.strip()], capture_output=True, text=True, check=True)
    names = []
    for library, nodes in stubs_of(versions_of(listing.stdout), glibc).items():
        source, script = folder / f"{library}.c", folder / f"{library}.map"
        symbols = sorted({name for node in nodes.values() for name in node})
        source.write_text("".join(f"void {name}(void) {{}}\n" for name in symbols))
        script.write_text("".join(f"GLIBC_{version} {{ {'; '.join(node)}; }};\n" for version, node in nodes.items()))
        command = ["gcc", "-shared", "-fPIC", "-nostdlib", "-fno-builtin", f"-Wl,-soname,{library}"]
        command += [f"-Wl,--version-script={script}", "-o", str(folder / library), str(source)]
        subprocess.run(command, check=True)
        names.append(str(folder / library))
    own = folder / "own.c"
    own.write_text(_OWN)
    built = folder / "own.o"
    subprocess.run(["gcc", "-c", "-fPIC", "-O2", "-o", str(built), str(own)], check=True)
    # libstdc++ of a newer compiler is inside, as in the images; its unwinder, libgcc_s, is that of the machine.
    print("-static-libstdc++ -Wl,--no-as-needed", built, *names, "-Wl,--as-needed")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2] if len(sys.argv) > 2 else "2.28")
