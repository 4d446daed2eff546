"""How candidates are timed: load, first run, warm-up, then rounds in which each runs a block in turn (A B A B ...).

Turns make drift of the machine, its clock and its heat common to all candidates. Nothing here knows what a candidate
is: a Runner opens and runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgegen.bench.statistics import Summary, summarize
from edgegen.callbacks import Advance
from edgegen.errors import EdgegenError, InputError

MIN_ROUNDS = 10  # unless time runs out: what the interval of a ratio is drawn from
LEAST_RUNS = 3  # however long they take
BLOCK_MS, MAX_BLOCK = 20.0, 10  # a block lasts about so long, and has at most so many runs
NOISE_LIMIT = 0.25  # of cv_trimmed: above, the median of 20 runs is uncertain by 7 % and more


@dataclass(frozen=True)
class Settings:
    """How long to measure: until `runs` runs (and 10 rounds) are done or `seconds` have passed, for each candidate."""

    runs: int = 20
    seconds: float = 10.0
    warmup: int = 3
    threads: int = 1

    def __post_init__(self) -> None:
        for name, least in (("runs", 1), ("warmup", 0), ("threads", 1)):
            if getattr(self, name) < least:
                raise InputError(f"--{name} is {getattr(self, name)}.", f"Give {least} or more.")
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise InputError(f"--seconds is {self.seconds:g}.", "Give a number above 0.")


@dataclass(frozen=True)
class Opened:
    """A candidate that is ready: `base_bytes` of its process before loading, `loaded_bytes` at the peak of loading."""

    load_ms: float
    base_bytes: int
    loaded_bytes: int


class Runner(Protocol):
    """Something that can be timed."""

    def open(self) -> Opened: ...

    def run(self, count: int) -> tuple[list[float], int]:
        """Milliseconds of `count` runs, and the peak of memory so far in bytes."""
        ...

    def close(self) -> None: ...


@dataclass
class Measurement:
    """What is known of a candidate; partial until all its rounds are done."""

    label: str
    opened: Opened | None = None
    first_ms: float | None = None
    peak_bytes: int = 0
    block: int = 1
    rounds: list[list[float]] = field(default_factory=list)
    partial: bool = True

    @property
    def runs(self) -> list[float]:
        return [run for block in self.rounds for run in block]

    @property
    def summary(self) -> Summary:
        return summarize(self.runs)

    @property
    def is_noisy(self) -> bool:
        return self.summary.cv_trimmed > NOISE_LIMIT

    def is_done(self, settings: Settings) -> bool:
        count = len(self.runs)
        enough = count >= settings.runs and (len(self.rounds) >= MIN_ROUNDS or settings.runs < MIN_ROUNDS)
        return enough or (count >= min(LEAST_RUNS, settings.runs) and sum(self.runs) >= 1e3 * settings.seconds)


def measure_(
    measurements: Sequence[Measurement],
    runners: Sequence[Runner],
    settings: Settings,
    advance: Advance = lambda done, of: None,
) -> None:
    """Times the runners in turn and fills their measurements in place, so that an interruption keeps what was done."""
    try:
        for measurement, runner in zip(measurements, runners, strict=True):
            prepare_(measurement, runner, settings)
        while not all(measurement.is_done(settings) for measurement in measurements):
            for measurement, runner in zip(measurements, runners, strict=True):
                runs, measurement.peak_bytes = runner.run(measurement.block)
                measurement.rounds.append(runs)
            advance(min(settings.runs, min(len(m.runs) for m in measurements)), settings.runs)
    finally:
        for runner in runners:
            runner.close()
    for measurement in measurements:
        measurement.partial = False


def prepare_(measurement: Measurement, runner: Runner, settings: Settings) -> None:
    """Opens a runner, keeps its first run apart, warms it up and chooses how many runs make a block."""
    measurement.opened = runner.open()
    (measurement.first_ms,), measurement.peak_bytes = runner.run(1)
    warm = [measurement.first_ms]
    if settings.warmup and measurement.first_ms < 1e3 * settings.seconds:
        warm = runner.run(settings.warmup)[0]
    measurement.block = min(MAX_BLOCK, math.ceil(BLOCK_MS / min(warm)), settings.runs)


def require_quiet(measurements: Sequence[Measurement]) -> None:
    """Raises EdgegenError that names every candidate whose spread leaves its median uncertain."""
    noisy = [m for m in measurements if m.is_noisy]
    if noisy:
        told = "; ".join(
            f"{m.label} varies by {m.summary.cv_trimmed:.0%} (CV {m.summary.cv_trimmed:.2f}, all runs "
            f"{m.summary.cv:.2f})"
            for m in noisy
        )
        raise EdgegenError(
            f"the machine is too noisy to tell: {told}; the limit is {NOISE_LIMIT:g}.",
            "Stop other work, raise --seconds, or pass --force to report it all the same.",
        )
