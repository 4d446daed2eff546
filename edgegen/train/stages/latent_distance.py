"""Latents in their principal components, where their Fréchet distance is a cheap measure to watch a run by.

Shapes: M, N numbers of samples, D dimensions, P values of a latent.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from edgegen.frechet import principal_axes


@dataclass(frozen=True)
class Components:
    """The mean (P,) and the first principal directions (P, D) of real latents, flattened to P values."""

    mean: Tensor
    directions: Tensor

    @classmethod
    def fit(cls, latents: Tensor, count: int = 64) -> Components:
        """Of latents (M, C, h, w); fewer than `count` where M allows no more."""
        return cls(*principal_axes(latents.flatten(1), min(count, len(latents) - 1)))

    def of(self, latents: Tensor) -> Tensor:
        """The coordinates (N, D) of latents (N, C, h, w)."""
        return (latents.flatten(1).double() - self.mean) @ self.directions
