"""Distances between two sets of features: Fréchet's between their Gaussians, and the kernel distance.

Shapes: N and M samples, D dimensions, P of them kept by a PCA. Sums are in float64.
"""

from __future__ import annotations

from torch import Tensor

from edgegen.errors import InputError
from edgegen.evaluate.checks import check_same_width, check_samples
from edgegen.frechet import gaussian_distance, principal_axes

COMPONENTS = 64  # principal components of the real features in which distances are taken, so that few pictures suffice


def frechet_distance(real: Tensor, drawn: Tensor, components: int | None = None) -> float:
    """The squared Fréchet distance between Gaussians fitted to two sets (N,D) and (M,D): smaller is closer.

    With `components` both sets are first projected on that many principal axes of the real one. Each set needs more
    samples than dimensions.
    """
    check_same_width(real, drawn)
    if components is not None and not 1 <= components <= real.shape[1]:
        raise InputError(f"components {components} is outside 1 to {real.shape[1]}.", "Give fewer.")
    dimensions = components or real.shape[1]
    for name, samples in (("real", real), ("drawn", drawn)):
        check_samples(name, samples, dimensions + 1, f"a Fréchet distance in {dimensions} dimensions")
    if components is not None:
        mean, axes = principal_axes(real, components)
        real, drawn = ((samples.double() - mean) @ axes for samples in (real, drawn))
    return gaussian_distance(real, drawn)


def kernel_distance(real: Tensor, drawn: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy of sets (N,D) and (M,D) under the kernel (x.y / D + 1)^3.

    Around zero, and below it by chance, where both come from one distribution.
    Source: Binkowski et al., arXiv 1801.01401, equation 4 and section 4.
    """
    check_same_width(real, drawn)
    check_samples("real", real, 2, "a kernel distance")
    check_samples("drawn", drawn, 2, "a kernel distance")
    x, y = real.double(), drawn.double()
    return float(mean_off_diagonal(kernel(x, x)) + mean_off_diagonal(kernel(y, y)) - 2 * kernel(x, y).mean())


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """The polynomial kernel (N,M) of two sets."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def mean_off_diagonal(matrix: Tensor) -> Tensor:
    """The mean of a square matrix without its diagonal."""
    count = len(matrix)
    return (matrix.sum() - matrix.diagonal().sum()) / (count * (count - 1))
