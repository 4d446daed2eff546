"""Fits the parameters of predict.py to published latencies, and tells the error of every point left out of the fit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgegen.bench.predict import Parameters, costs, unit_of
from edgegen.graph.operations import Totals
from edgegen.target import Device

COVERAGE = 0.8  # of the interval


@dataclass(frozen=True)
class Point:
    """A published latency: milliseconds of one run, guidance in one batch included in `totals`."""

    label: str
    device: Device
    unit: str
    model: str
    compute: str
    totals: Totals
    milliseconds: float
    fitted: bool  # False: outside what the model describes, predicted all the same

    @property
    def family(self) -> str:
        return unit_of(self.device, self.unit).family

    @property
    def chip(self) -> str:
        return self.device.chip.value


@dataclass(frozen=True)
class Family:
    """How a family is fitted: which of (compute, weights, spill) its points can tell apart, and its own memory."""

    name: str
    terms: tuple[int, ...]
    on_chip_bytes: float


@dataclass(frozen=True)
class LeftOut:
    """A point, and what the fit to the others says of it."""

    point: Point
    predicted: float

    @property
    def ratio(self) -> float:
        """published / predicted."""
        return self.point.milliseconds / self.predicted

    @property
    def error(self) -> float:
        return abs(self.predicted / self.point.milliseconds - 1)


def fit(points: Sequence[Point], family: Family) -> np.ndarray:
    """The (3,) non-negative weights of the costs that minimize the squares of log(predicted / published)."""
    relative = cost_matrix(points, family) / np.array([[point.milliseconds] for point in points])  # (points, 3)
    return least_log(relative, non_negative(relative, family.terms))


def cost_matrix(points: Sequence[Point], family: Family) -> np.ndarray:
    """Costs (points, 3) in milliseconds: products, weights, spilled scores."""
    with_memory = family.terms != (0,)
    return np.array(
        [
            costs(p.totals, p.device, unit_of(p.device, p.unit), p.compute, family.on_chip_bytes, with_memory)
            for p in points
        ]
    )


def non_negative(matrix: np.ndarray, terms: Sequence[int]) -> np.ndarray:
    """Least squares of matrix @ x = 1 over x >= 0, by trying every set of the few columns."""
    best, least = np.zeros(matrix.shape[1]), np.inf
    for size in range(1, len(terms) + 1):
        for chosen in itertools.combinations(terms, size):
            columns = list(chosen)
            found = np.linalg.lstsq(matrix[:, columns], np.ones(len(matrix)), rcond=None)[0]
            x = np.zeros(matrix.shape[1])
            x[columns] = found
            loss = float(np.square(matrix @ x - 1).sum())
            if (found > 0).all() and loss < least:
                best, least = x, loss
    return best


def least_log(matrix: np.ndarray, start: np.ndarray, steps: int = 50) -> np.ndarray:
    """Least squares of log(matrix @ x) = 0 from a start, by Gauss-Newton in the logarithms of its positive entries."""
    columns = np.flatnonzero(start)
    part, logs = matrix[:, columns], np.log(start[columns])
    for _ in range(steps):
        made = part @ np.exp(logs)
        jacobian = part * np.exp(logs) / made[:, None]
        logs = logs - np.clip(np.linalg.lstsq(jacobian, np.log(made), rcond=1e-9)[0], -1, 1)
    x = np.zeros_like(start)
    x[columns] = np.exp(logs)
    return x


def leave_one_out(points: Sequence[Point], family: Family, by_chip: bool = False) -> list[LeftOut]:
    """Every point predicted by a fit without it, or without any point of its chip; impossible ones are missing."""
    left = []
    for point in points:

        def keeps(other: Point, point: Point = point) -> bool:
            return other.fitted and (other.chip != point.chip if by_chip else other is not point)

        others = [other for other in points if keeps(other)]
        if others:
            predicted = float((cost_matrix([point], family) @ fit(others, family))[0])
            left.append(LeftOut(point, predicted))
    return left


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Factors that hold COVERAGE of published / predicted, by rank (the jackknife's), never inside 1."""
    ordered, tail = sorted(ratios), (1 - COVERAGE) / 2
    count = len(ordered)
    low = ordered[max(0, int(np.floor(tail * (count + 1))) - 1)]
    high = ordered[min(count - 1, int(np.ceil((1 - tail) * (count + 1))) - 1)]
    return min(1.0, low), max(1.0, high)


def fit_family(points: Sequence[Point], family: Family) -> tuple[Parameters, list[LeftOut]]:
    """Parameters fitted to all points that count, with errors and interval from those left out.

    A single point cannot be left out: its parameters have no error and no interval of their own (1, 1).
    """
    used = [point for point in points if point.fitted]
    found, left = fit(used, family), leave_one_out(points, family)
    inside = [item for item in left if item.point.fitted]
    low, high = interval([item.ratio for item in inside]) if inside else (1.0, 1.0)
    error = float(np.median([item.error for item in inside])) if inside else None
    parameters = Parameters(
        1 / found[0],
        found[1],
        found[2],
        family.on_chip_bytes,
        len(used),
        min(point.totals.macs for point in used),
        error,
        low,
        high,
    )
    return parameters, left


def widen_lonely(fitted: dict[str, Parameters]) -> dict[str, Parameters]:
    """Gives families of a single point the widest interval of the others."""
    told = [p for p in fitted.values() if p.error is not None]
    low, high = min(p.low for p in told), max(p.high for p in told)
    return {name: p if p.error is not None else replace(p, low=low, high=high) for name, p in fitted.items()}


def wrong_orders(points: Sequence[Point], predicted: Sequence[float], margin: float = 0.15) -> list[tuple[str, str]]:
    """Pairs of one chip or of one model whose published times differ by more than `margin` and are predicted in the
    other order.
    """
    wrong = []
    for (a, x), (b, y) in itertools.combinations(zip(points, predicted, strict=True), 2):
        comparable = a.family == b.family and (a.chip == b.chip or a.model == b.model)
        apart = max(a.milliseconds, b.milliseconds) > (1 + margin) * min(a.milliseconds, b.milliseconds)
        if comparable and apart and (a.milliseconds - b.milliseconds) * (x - y) <= 0:
            wrong.append((a.label, b.label))
    return wrong
