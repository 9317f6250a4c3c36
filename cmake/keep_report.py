# SPDX-License-Identifier: BSD-3-Clause
"""Runs a CUDA compiler and keeps what its assembler reports of every kernel (registers, spills) beside the object file.

The report is hundreds of lines, so it is not printed; other messages of the compiler are.
"""

import subprocess
import sys
from pathlib import Path

command = sys.argv[1:]
done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
lines = done.stdout.splitlines()
report = [line for line in lines if line.startswith("ptxas info") or "bytes stack frame" in line]
for line in lines:
    if done.returncode != 0 or line not in report:
        print(line)
if "-o" in command and done.returncode == 0:
    Path(command[command.index("-o") + 1] + ".ptxas").write_text("\n".join(report) + "\n")
sys.exit(done.returncode)
