"""What a row of timings says: percentiles, spread, and the ratio of two with its confidence interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgegen.errors import InputError

TRIM = 0.1  # of the runs, left out at either end of the trimmed mean
CONFIDENCE = 0.95
RESAMPLES = 2000

Rounds = Sequence[Sequence[float]]  # milliseconds, one row a round


@dataclass(frozen=True)
class Summary:
    """Milliseconds of n runs. `cv` is the standard deviation over the mean, `cv_trimmed` without the runs trimmed."""

    n: int
    min: float
    p50: float
    p90: float
    p95: float
    max: float
    trimmed_mean: float
    cv: float
    cv_trimmed: float


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians and the interval that holds it with `confidence`."""

    value: float
    low: float
    high: float
    confidence: float = CONFIDENCE

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 1: whether there is a difference to speak of."""
        return not self.low <= 1 <= self.high


def trim(runs: Sequence[float] | np.ndarray, share: float = TRIM) -> np.ndarray:
    """The sorted runs without the `share` at either end."""
    ordered = np.sort(np.asarray(runs, np.float64))
    cut = int(share * ordered.size)
    return ordered[cut : ordered.size - cut]


def variation(runs: np.ndarray) -> float:
    """Coefficient of variation with n - 1 degrees of freedom; 0 for a single run."""
    return float(runs.std(ddof=1) / runs.mean()) if runs.size > 1 else 0.0


def summarize(runs: Sequence[float]) -> Summary:
    """The statistics of milliseconds; no runs, or one that is not a positive number, is an error."""
    values = np.asarray(runs, np.float64)
    if values.size == 0 or not (np.isfinite(values) & (values > 0)).all():
        raise InputError(f"{values.size} runs, not all of them positive milliseconds: nothing to summarize.")
    p50, p90, p95 = np.percentile(values, (50, 90, 95))
    kept = trim(values)
    return Summary(
        values.size,
        float(values.min()),
        float(p50),
        float(p90),
        float(p95),
        float(values.max()),
        float(kept.mean()),
        variation(values),
        variation(kept),
    )


def ratio_of_medians(
    a: Rounds, b: Rounds, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Ratio:
    """median(a) / median(b) of two that ran in turn, with a percentile bootstrap over whole rounds.

    A round is drawn with both its sides, so that what slowed both cancels, and runs of one round, which resemble each
    other, are not taken for independent ones. Rounds of a side must be equally long, and both sides have as many.
    """
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)  # (R, runs of a round)
    if left.ndim != 2 or right.ndim != 2 or len(left) != len(right) or len(left) < 2:
        raise InputError(
            f"{len(left)} and {len(right)} rounds: two sides with the same rounds, at least 2, are needed.",
            "Raise --runs or --seconds.",
        )
    drawn = np.random.default_rng(seed).integers(0, len(left), (resamples, len(left)))
    ratios = np.median(left[drawn].reshape(resamples, -1), 1) / np.median(right[drawn].reshape(resamples, -1), 1)
    low, high = np.quantile(ratios, ((1 - confidence) / 2, (1 + confidence) / 2))
    return Ratio(float(np.median(left) / np.median(right)), float(low), float(high), confidence)
