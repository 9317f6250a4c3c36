# SPDX-License-Identifier: BSD-3-Clause
"""Loading of the native libraries.

torch is imported first, which provides the symbols that the libraries need: no path to torch is compiled in. The
libraries are beside the compiled module ``_C``, which is not beside this file in an editable install. The library of
the CUDA operators is loaded where torch is a build with CUDA, with or without a GPU.
"""

from __future__ import annotations

from pathlib import Path

import torch

_INSTALL = "pip install torch, then pip install --no-build-isolation ."


def load_operators() -> None:
    """Register every ``torch.ops.ptycho`` operator.

    Raises:
        ImportError: the native libraries are not found, or are incompatible with this torch; with instructions.
    """
    try:
        from ptycho_ext import _C
    except ImportError as error:
        raise ImportError(
            f"ptycho_ext: the native libraries must be built for this interpreter ({_INSTALL})"
        ) from error
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
                f"({_INSTALL}): {error}"
            ) from error
