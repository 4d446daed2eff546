"""Standard streams that may be closed, cut short or of another encoding: work never fails for want of a listener."""

from __future__ import annotations

import errno
import os
import sys
from typing import IO, Any

GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ESHUTDOWN, errno.ECONNRESET)  # nobody reads any more


class Tolerant:
    """A text stream that goes on when nobody reads it; with `lossy`, whatever the system refuses is let be."""

    def __init__(self, stream: IO[str], lossy: bool = False):
        self._stream, self._lossy = stream, lossy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._tolerate(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._tolerate(self._stream.flush)

    def _tolerate(self, work: Any) -> None:
        try:
            work()
        except ValueError:  # closed
            pass
        except OSError as error:
            drop_(self._stream)  # else what it holds fails again when Python ends
            if error.errno not in GONE and not self._lossy:
                raise


def drop_(stream: IO[str]) -> None:
    """Sends what a stream still holds, and all that follows, to nowhere."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
    except (OSError, ValueError):
        pass


def repair_() -> None:
    """Makes the process's standard streams usable: closed ones lead nowhere, so that no file that is opened later
    takes their number; text that their encoding lacks is escaped; a reader that goes away is no error.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # the lowest free number: this one
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name) or os.fdopen(number, "w", encoding="utf-8", closefd=False)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, Tolerant(stream, lossy=name == "stderr"))


def for_people() -> Any:
    """stderr by a handle of its own, which stays open while converters are kept quiet."""
    return Tolerant(os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace"), lossy=True)
