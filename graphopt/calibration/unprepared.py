"""How making inputs of texts, images and sound fails.

This file and the `prepared_…` beside it become part of the `validate.py` of every bundle, so that
inputs are made here and on a device by the same code. They therefore keep to Python 3.8, the
standard library and numpy, with `tokenizers` and Pillow where texts and images need them.
"""

from __future__ import annotations

__all__ = ["LibraryMissing", "Unprepared"]


class Unprepared(Exception):
    """Something cannot be made into inputs.

    Args:
        message: What cannot.
        why: What is the matter with it.
        hint: What helps.
    """

    def __init__(self, message: str, why: str, hint: str = "") -> None:
        super().__init__(f"{message}: {why}")
        self.message, self.why, self.hint = message, why, hint


class LibraryMissing(Unprepared):
    """The library that reads such things is not installed."""
