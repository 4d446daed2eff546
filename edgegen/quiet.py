"""Keeps the chatter of third-party converters off the terminal, and shows it when they fail."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import TypeVar

Result = TypeVar("Result")


def quietly(work: Callable[[], Result]) -> Result:
    """Runs work without the chatter of libraries; what it raises comes out as it is, and nothing is shown."""
    with quiet():
        try:
            result = work()
        except Exception as error:
            failure: Exception | None = error
        else:
            failure = None
    if failure is not None:
        raise failure
    return result


PROCESS = RLock()  # held by whatever changes something of the whole process for a while, one thread at a time


@contextmanager
def quiet() -> Iterator[None]:
    """Sends the process's stdout and stderr, C libraries included, to a file; its end is shown if the body raises.

    Other threads print to that file too meanwhile; a second thread that asks for quiet waits.
    """
    with PROCESS:
        yield from divert()


def divert() -> Iterator[None]:
    """Points the two streams elsewhere for as long as the generator is suspended."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(fd) for fd in (1, 2)]
    with tempfile.TemporaryFile() as log, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for fd in (1, 2):
                os.dup2(log.fileno(), fd)
            yield
        except BaseException as error:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(kept[1], 2)
            if isinstance(error, Exception):
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - 2000))
                sys.stderr.write(log.read().decode(errors="replace"))
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for fd, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, fd)
                os.close(copy)
