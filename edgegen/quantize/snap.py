"""Centroids as int8 multiples of one float16 scale: values that every back end holds exactly."""

from __future__ import annotations

import numpy as np

from edgegen.quantize.histogram import Histogram
from edgegen.quantize.intervals import Sums

SMALLEST = 2.0**-24  # the least float16 above zero
LIMIT = 127  # of int8; -128 stays free, since symmetric kernels have no use for it
ENDS = np.concatenate([np.linspace(96, LIMIT, 63), LIMIT * np.geomspace(1.02, 2, 24)])  # beyond the limit: clipped


def snap(histogram: Histogram, centroids: np.ndarray) -> tuple[np.ndarray, float]:
    """int8 values, ascending and distinct, and the scale whose products with them have the least error.

    Every centroid is rounded; as many centroids as int8 has values take all of them. The scale is one that float16
    holds, since Core AI's programs take it in the precision of their weights.
    """
    largest = float(np.abs(centroids).max())
    if largest == 0:
        return np.zeros(1), 1.0
    sums = Sums.of(histogram)
    found = []
    for scale in np.unique(np.maximum(np.float16(largest / ENDS).astype(np.float64), SMALLEST)):
        values = np.unique(np.clip(np.rint(centroids / scale), -LIMIT, LIMIT))
        if centroids.size > 2 * LIMIT:
            values = np.arange(-LIMIT, LIMIT + 1.0)
        table = values * scale
        middles = np.searchsorted(histogram.values, (table[1:] + table[:-1]) / 2)
        error = sums.around(np.concatenate([[0], middles, [sums.count]]), table)
        found.append((error, scale, values))
    _, scale, values = min(found, key=lambda row: row[:2])
    return values, float(scale)
