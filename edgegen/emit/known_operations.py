"""PyTorch's list of composite operations, asked for once: every pass of a capture asks for each namespace's anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch._export import utils


def once(work: Callable[[], None]) -> Callable[[], None]:
    """A function that does its work at the first call alone."""
    left = [work]

    def run() -> None:
        if left:
            left.pop()()

    return run


@contextmanager
def operations_known() -> Iterator[None]:
    """Within it the list is made once; for work during which no library of operations is loaded."""
    kept = utils._materialize_cpp_cia_ops
    utils._materialize_cpp_cia_ops = once(kept)
    try:
        yield
    finally:
        utils._materialize_cpp_cia_ops = kept
