"""Centroids as int8 multiples of one scale: values that Core ML, ONNX and ExecuTorch all hold exactly."""

from __future__ import annotations

import numpy as np

from edgegen.quantize.histogram import Histogram
from edgegen.quantize.kmeans import squared_error

LIMIT = 127  # of int8; -128 stays free, since symmetric kernels have no use for it


def snap(histogram: Histogram, centroids: np.ndarray) -> tuple[np.ndarray, float]:
    """int8 values (k,), ascending and distinct, and the scale whose products with them have the least error."""
    largest = max(float(np.abs(centroids).max()), 1e-7)
    best: tuple[float, np.ndarray, float] | None = None
    for step in np.linspace(100, LIMIT, 55):
        scale = float(np.float32(largest / step))
        values = np.unique(np.clip(np.rint(centroids / scale), -LIMIT, LIMIT))
        error = squared_error(histogram, values * scale)
        if best is None or error < best[0]:
            best = error, values, scale
    assert best is not None
    return best[1], best[2]
