"""The error of every interval of a sorted histogram, from prefix sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgegen.quantize.histogram import Histogram


@dataclass(frozen=True)
class Sums:
    """Prefix sums (n + 1,) of weight, weight * value and weight * value^2, values taken from their mean.

    A cut j lies before value j; an interval (i, j) holds values i to j - 1.
    """

    weight: np.ndarray
    first: np.ndarray
    second: np.ndarray
    mean: float = 0.0

    @classmethod
    def of(cls, histogram: Histogram) -> Sums:
        mean = float(np.average(histogram.values, weights=histogram.weights))
        w, x = histogram.weights, histogram.values - mean
        weight, first, second = (np.concatenate([[0.0], np.cumsum(y)]) for y in (w, w * x, w * x * x))
        return cls(weight, first, second, mean)

    @property
    def count(self) -> int:
        return self.weight.size - 1

    def error(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Squared error of intervals around their means; 0 for empty ones, inf for i > j."""
        weight = self.weight[j] - self.weight[i]
        first = self.first[j] - self.first[i]
        with np.errstate(divide="ignore", invalid="ignore"):
            error = self.second[j] - self.second[i] - first * first / weight
        return np.where(j > i, np.maximum(error, 0.0), np.where(j == i, 0.0, np.inf))

    def total(self, cuts: np.ndarray) -> float:
        """Error of the partition at `cuts`, from 0 to n."""
        return float(self.error(cuts[:-1], cuts[1:]).sum())

    def around(self, cuts: np.ndarray, points: np.ndarray) -> float:
        """Squared distance of the values of each interval to a point of its own, summed."""
        weight, first, second = (np.diff(sums[cuts]) for sums in (self.weight, self.first, self.second))
        points = points - self.mean
        return max(0.0, float((second - 2 * points * first + points * points * weight).sum()))

    def at(self, cuts: np.ndarray) -> Sums:
        """The same with cuts allowed at `cuts` alone."""
        return Sums(self.weight[cuts], self.first[cuts], self.second[cuts], self.mean)


def compand(histogram: Histogram, parts: int = 512) -> np.ndarray:
    """A coordinate (n,) in which the cuts of a good partition are about evenly spaced: the integral of density^(1/3).

    Panter and Dite (1951). The density is taken over `parts` stretches of equal weight and as many of equal length.
    """
    x, cumulative = histogram.values, np.cumsum(histogram.weights)
    by_weight = np.searchsorted(cumulative, np.linspace(0, cumulative[-1], parts + 1)[1:-1])
    by_length = np.searchsorted(x, np.linspace(x[0], x[-1], parts + 1)[1:-1])
    ends = np.unique(np.concatenate([[0], by_weight, by_length, [x.size - 1]]))
    weight = np.add.reduceat(histogram.weights, ends)[:-1]
    steps = np.cbrt(weight) * np.square(np.cbrt(np.diff(x[ends])))
    return np.interp(x, x[ends], np.concatenate([[0.0], np.cumsum(steps)]))


def even_cuts(coordinate: np.ndarray, intervals: int) -> np.ndarray:
    """At most `intervals` + 1 distinct cuts, 0 and n among them, evenly spaced in a coordinate (n,)."""
    inner = np.searchsorted(coordinate, coordinate[-1] * np.arange(1, intervals) / intervals)
    return np.unique(np.concatenate([[0], inner, [coordinate.size]]))
