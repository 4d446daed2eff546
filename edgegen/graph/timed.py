"""One operation with the time its runtime tells."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TimedOperation:
    """One operation of an artifact: milliseconds (median of the runs), and when it began in the last run."""

    name: str
    kind: str
    module: str  # '' where it could not be told
    ms: float
    start_ms: float
