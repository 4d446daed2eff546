"""The two ways a command can fail, each with its exit code, and values as errors may name them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

LINE = 300  # characters that a refusal may have: one line, whatever the value it names
REMEDY = 140  # of them for the remedy


def brief(value: object, limit: int = 60) -> str:
    """A value as an error names it: its repr, the middle of a long one left out."""
    if isinstance(value, str | bytes | list | tuple) and len(value) > 2 * limit:
        value = value[: 2 * limit]  # repr of a whole one may be as long as the file it came from
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested without end, or a whole number of thousands of digits
        text = type(value).__name__
    return shortened(text, limit)


def shortened(text: str, limit: int) -> str:
    """A text in one line of at most `limit` characters that a terminal can show; the middle of a long one left out."""
    if len(text) > 4 * limit:
        text = text[: 2 * limit] + text[-2 * limit :]
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    line = "".join(c if c.isprintable() else "\ufffd" for c in line)
    if len(line) <= limit:
        return line
    head = (2 * (limit - 3)) // 3
    return f"{line[:head]}...{line[head + 3 - limit :]}"


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
    """Input that cannot be used: nothing was written or overwritten. Exit code 2.

    Message and remedy together have at most `LINE` characters, however long what they name is.
    """

    exit_code = 2

    def __init__(self, message: str, remedy: str = ""):
        remedy = shortened(remedy, max(REMEDY, LINE - 1 - len(message)))
        super().__init__(shortened(message, LINE - 1 - len(remedy)), remedy)


class Interrupted(EdgegenError):
    """What Ctrl-C ended. Exit code 130."""

    exit_code = 130


class VerificationError(EdgegenError):
    """An artifact that differs from the PyTorch reference by more than its floor allows. Exit code 1.

    `kept` is what was written nevertheless: an export's Result without the back ends that failed.
    """

    kept: Any = None


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that does not exist: suggests the closest, and lists all."""
    known = list(known)
    close = difflib.get_close_matches(name[:64].lower(), known, 1, cutoff=0.4)
    hint = f"Did you mean {close[0]}? " if close else ""
    return InputError(f"unknown {what} {brief(name)}.", f"{hint}Known: {', '.join(known)}.")
