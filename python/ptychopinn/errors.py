# SPDX-License-Identifier: BSD-3-Clause
"""The one exception that means "the user can mend this".

Everything a user can get wrong (a file, a key, an option) raises :class:`InputError` with one sentence that names
the file, the key and what was expected. The command line prints that sentence and exits with status 2; any other
exception is a defect of the program and keeps its traceback.
"""


class InputError(ValueError):
    """A file, an option or an argument is not usable; the message says which, and how to mend it."""
