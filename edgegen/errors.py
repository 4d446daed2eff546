"""The two ways a command can fail, each with its exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgegenError(Exception):
    """An expected failure: one line for people, no traceback.

    `message` names the value and the limit it broke, `remedy` what to do next.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = ""):
        super().__init__(f"{message} {remedy}".strip())
        self.message = message
        self.remedy = remedy


class InputError(EdgegenError):
    """Input that cannot be used: nothing was written or overwritten. Exit code 2."""

    exit_code = 2


class VerificationError(EdgegenError):
    """An artifact that differs from the PyTorch reference by more than its floor allows. Exit code 1."""


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that does not exist: suggests the closest, and lists all."""
    known = list(known)
    close = difflib.get_close_matches(name.lower(), known, 1, cutoff=0.4)
    hint = f"Did you mean {close[0]}? " if close else ""
    return InputError(f"unknown {what} {name!r}.", f"{hint}Known: {', '.join(known)}.")
