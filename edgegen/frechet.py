"""The Fréchet distance between two sets of samples, and the principal axes in which few samples suffice for it.

Shapes: N and M samples, D dimensions, P of them kept. Sums are in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor


def principal_axes(samples: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The mean (D,) and the axes (D,P) of greatest variance of samples (N,D), float64."""
    mean = samples.double().mean(0)
    _, _, axes = torch.linalg.svd(samples.double() - mean, full_matrices=False)
    return mean, axes[:count].T


def gaussian_distance(a: Tensor, b: Tensor) -> float:
    """The squared Fréchet distance between Gaussians fitted to (N,D) and (M,D), of which each should have more samples
    than dimensions: |mean difference|^2 + tr(A + B - 2 (A B)^1/2).

    Source: Heusel et al., arXiv 1706.08500, equation 6.
    """
    (mean_a, cov_a), (mean_b, cov_b) = gaussian(a), gaussian(b)
    spread = cov_a.trace() + cov_b.trace() - 2 * trace_root(cov_a, cov_b)
    return max(0.0, float((mean_a - mean_b).square().sum() + spread))


def gaussian(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D,D), float64."""
    return samples.double().mean(0), torch.cov(samples.double().T).reshape(samples.shape[1], samples.shape[1])


def trace_root(a: Tensor, b: Tensor) -> Tensor:
    """The trace of (a b)^(1/2) of two covariances (D,D): by the eigenvalues of a^(1/2) b a^(1/2), a symmetric one."""
    values, vectors = torch.linalg.eigh(a)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return torch.linalg.eigvalsh(root @ b @ root).clamp_min(0).sqrt().sum()
