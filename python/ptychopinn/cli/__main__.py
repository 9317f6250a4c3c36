# SPDX-License-Identifier: BSD-3-Clause
"""``python -m ptychopinn.cli``, for torchrun, which starts modules."""

import sys

from ptychopinn.cli import main

if __name__ == "__main__":
    sys.exit(main())
