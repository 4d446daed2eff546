"""k-means of a histogram in one dimension, where clusters are intervals of the sorted values.

Both solvers give the optimum: `cluster` by shortest paths at a charge per cluster (partition.py), whose time hardly
grows with the clusters; `exact` layer by layer, D_k(j) = min_i D_{k-1}(i) + error(i, j), as the reference.
"""

from __future__ import annotations

import numpy as np

from edgegen.quantize.histogram import Histogram
from edgegen.quantize.intervals import Sums, compand
from edgegen.quantize.partition import best_cuts


def exact(histogram: Histogram, clusters: int) -> np.ndarray:
    """Centroids of least error, ascending, at most one a value, in O(K N log N).

    Divide and conquer: the best i grows with j, so the middle j of every stretch bounds those on either side.
    """
    sums = Sums.of(histogram)
    count = sums.count
    clusters = min(clusters, count)
    error = sums.error(np.zeros(count + 1, int), np.arange(count + 1))
    parents = []
    for _ in range(1, clusters):
        error, parent = _next_layer(error, sums)
        parents.append(parent)
    bounds = [count]
    for parent in reversed(parents):
        bounds.append(int(parent[bounds[-1]]))
    return means(histogram, np.array([0, *bounds[::-1]]))


def _next_layer(before: np.ndarray, sums: Sums) -> tuple[np.ndarray, np.ndarray]:
    """D_k (n + 1,) and its best i (n + 1,) from D_{k-1}; a whole level of the recursion at a time."""
    count = sums.count
    best, parent = np.empty(count + 1), np.zeros(count + 1, np.int64)
    first, last = np.array([0]), np.array([count])  # stretches of j
    low, high = np.array([0]), np.array([count])  # of i
    while first.size:
        middle = (first + last) // 2
        lengths = np.minimum(high, middle) - low + 1
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        i = np.arange(lengths.sum()) - np.repeat(starts - low, lengths)
        totals = before[i] + sums.error(i, np.repeat(middle, lengths))
        least = np.minimum.reduceat(totals, starts)
        at = np.flatnonzero(totals == np.repeat(least, lengths))
        chosen = i[at[np.searchsorted(at, starts)]]  # the first of equals
        best[middle], parent[middle] = least, chosen
        left, right = first < middle, middle < last
        first, last = np.concatenate([first[left], middle[right] + 1]), np.concatenate([middle[left] - 1, last[right]])
        low, high = np.concatenate([low[left], chosen[right]]), np.concatenate([chosen[left], high[right]])
    return best, parent


def means(histogram: Histogram, bounds: np.ndarray) -> np.ndarray:
    """Weighted mean of each non-empty interval between bounds, ascending."""
    starts = bounds[:-1][np.diff(bounds) > 0]
    total = np.add.reduceat(histogram.weights, starts)
    return np.add.reduceat(histogram.weights * histogram.values, starts) / total


def cluster(histogram: Histogram, clusters: int) -> np.ndarray:
    """Centroids of least error, ascending; fewer than asked when there are fewer values."""
    if histogram.values.size <= clusters:
        return histogram.values
    cuts = best_cuts(Sums.of(histogram), clusters, compand(histogram))
    return exact(histogram, clusters) if cuts is None else means(histogram, cuts)


def squared_error(histogram: Histogram, centroids: np.ndarray) -> float:
    """Weighted sum of squared distances to the nearest centroid; centroids ascend."""
    nearest = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, histogram.values, side="right")
    return float((histogram.weights * np.square(histogram.values - centroids[nearest])).sum())
