"""Failures of the system that no code meets where they happen, each kind as one line."""

from __future__ import annotations

from edgegen.errors import EdgegenError, InputError, brief
from edgegen.files import chain, system_error

MEMORY = ("bad_alloc", "can't allocate memory", "Failed to allocate", "out of memory", "Cannot allocate memory")


def expected(error: BaseException) -> EdgegenError | None:
    """The error to tell of instead: our own as it is, what the system or an allocator refused in its own words, text
    that no stream can hold; None for what is a bug.
    """
    if isinstance(error, EdgegenError):
        return error
    if any(is_memory(cause) for cause in chain(error)):
        return InputError(
            "there is not enough memory for this.", "Choose a narrower tier or a smaller --resolution, or free some."
        )
    if isinstance(error, OSError) and error.errno is not None:
        return system_error(error)
    if isinstance(error, UnicodeError):
        return InputError(f"{brief(getattr(error, 'object', ''))} is not UTF-8 text.", "Write it in UTF-8.")
    return None


def is_memory(error: BaseException) -> bool:
    """Whether an allocator could not give what was asked."""
    told = str(error)[:2000]
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(word in told for word in MEMORY))
