"""Seconds and peak memory of the stages of a long command."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Stage:
    """One stage: wall time, and the most memory the process held during it (Linux; elsewhere, until its end)."""

    name: str
    seconds: float
    peak_bytes: int


@dataclass
class Meter:
    """Collects stages in order."""

    stages: list[Stage] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        reset_peak()
        start = time.perf_counter()
        yield
        self.stages.append(Stage(name, round(time.perf_counter() - start, 2), peak_bytes()))

    @property
    def peak_bytes(self) -> int:
        return max((stage.peak_bytes for stage in self.stages), default=0)


def reset_peak() -> None:
    """Starts the kernel's record of the peak anew; where that cannot be done the peak is that of the whole run."""
    try:
        CLEAR.write_text("5")
    except OSError:
        pass


def peak_bytes() -> int:
    """The most memory this process has held since the record began."""
    try:
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def give_back() -> None:
    """Returns freed memory to the system: glibc keeps what lies below anything still in use, gigabytes after a network
    was read or run. Nothing happens where the C library is another.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        pass


def available_bytes() -> int:
    """Memory that can be taken without swapping; a very large number where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 2**60
