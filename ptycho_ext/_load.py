# SPDX-License-Identifier: BSD-3-Clause
"""Loads the native libraries, once, and says in one sentence what to do when they cannot be loaded.

torch is imported first, so that its symbols are there when the operators' libraries ask for them: no path to torch is
baked in. The libraries lie beside the compiled module ``_C``, which is not beside this file in an editable install.
That of the CUDA operators is loaded where torch is a build with CUDA, whether or not there is a GPU.
"""

from __future__ import annotations

from pathlib import Path

import torch

_MEND = "pip install torch, then pip install --no-build-isolation ."


def load_operators() -> None:
    """Register every ``torch.ops.ptycho`` operator.

    Raises:
        ImportError: the native libraries are missing, or do not fit this torch.
    """
    try:
        from ptycho_ext import _C
    except ImportError as error:
        raise ImportError(f"ptycho_ext: the native libraries must be built for this interpreter ({_MEND})") from error
    libraries = ["ptycho_ops"]
    if _C.build_info()["cuda"] and torch.version.cuda is not None:
        libraries.append("ptycho_ops_cuda")
    for name in libraries:
        library = Path(_C.__file__).with_name(f"lib{name}.so")
        try:
            torch.ops.load_library(str(library))
        except OSError as error:
            built = _C.build_info()["torch_version"]
            raise ImportError(
                f"ptycho_ext: {library}, built with torch {built}, must load under torch {torch.__version__} "
                f"({_MEND}): {error}"
            ) from error
