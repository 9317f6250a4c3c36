# SPDX-License-Identifier: BSD-3-Clause
"""The subcommands: a module each, with ``describe(parser)`` and ``run(options)``, thin over the Python interface."""
