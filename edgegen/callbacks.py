"""Functions that are handed around: what long work tells its caller, and what runs a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np

Report: TypeAlias = Callable[[str], None]  # a line: what happens now
Advance: TypeAlias = Callable[[int, int], None]  # done, of how many
ArrayFunction: TypeAlias = "Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]"  # by name, to arrays by name


def advance_of(report: Report) -> Advance:
    """What tells the same watcher of steps; nobody where it only takes lines."""
    return getattr(report, "advance", lambda done, of: None)
