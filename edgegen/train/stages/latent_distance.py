"""Fréchet distance of latents in their principal components: a cheap measure to watch a run by.

Shapes: M, N numbers of samples, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Components:
    """The mean (P,) and the first principal directions (P, D) of real latents, flattened to P values."""

    mean: Tensor
    directions: Tensor

    @classmethod
    def fit(cls, latents: Tensor, count: int = 64) -> Components:
        """Of latents (M, C, h, w); fewer than `count` where M allows no more."""
        flat = latents.flatten(1).double()
        mean = flat.mean(0)
        directions = torch.linalg.svd(flat - mean, full_matrices=False)[2][: min(count, len(flat) - 1)]
        return cls(mean, directions.T)

    def of(self, latents: Tensor) -> Tensor:
        """The coordinates (N, D) of latents (N, C, h, w)."""
        return (latents.flatten(1).double() - self.mean) @ self.directions


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|mean difference|^2 + tr(A + B - 2 (A B)^1/2) of the Gaussians fitted to a (M, D) and b (N, D)."""
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    mean = (a.mean(0) - b.mean(0)).square().sum()
    return float(mean + cov_a.trace() + cov_b.trace() - 2 * cross)
