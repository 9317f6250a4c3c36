# SPDX-License-Identifier: BSD-3-Clause
"""The one exception that means "the user can mend this".

Everything a user can get wrong (a file, a key, an option) raises :class:`InputError` with one sentence that names
the file, the key and what was expected. The command line prints that sentence and exits with status 2; any other
exception is a defect of the program and keeps its traceback.
"""


class InputError(ValueError):
    """A file, an option or an argument is not usable; the message says which, and how to mend it."""


class SaidElsewhere(InputError):
    """Of several processes another one says what is wrong and fails for all: this one ends without a word.

    Args:
        sentence: what is wrong.
        lost: this process cannot go on because the other one has ended, rather than for the same reason.
    """

    def __init__(self, sentence: str, *, lost: bool = False) -> None:
        super().__init__(sentence)
        self.lost = lost
