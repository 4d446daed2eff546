"""Flow matching: the noising path, the timestep distribution, the loss, and a validation loss on fixed draws.

Shapes: B batch, C latent channels, h x w latent grid.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, C, h, w), t (B,)) -> velocity (B, C, h, w)


def logit_normal(count: int, generator: torch.Generator, shift: float = 1.0) -> Tensor:
    """Timesteps (count,) in (0, 1): the sigmoid of a standard normal, moved toward noise by `shift`."""
    t = torch.randn(count, generator=generator).sigmoid()
    return shift * t / (1 + (shift - 1) * t)


def noised(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) x0 + t noise, with t (B,)."""
    t = t[:, None, None, None]
    return (1 - t) * x0 + t * noise


def flow_loss(velocity: Tensor, x0: Tensor, noise: Tensor) -> Tensor:
    """Mean of (noise - x0 - velocity)^2, equation 1 of arXiv 2601.08303."""
    return (noise - x0 - velocity).square().mean()


@torch.no_grad()
def validation_loss(velocity: Velocity, x0: Tensor, seed: int = 0) -> float:
    """Flow-matching loss over latents x0 (B, C, h, w), with noise and evenly spread timesteps fixed by the seed."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(x0.shape, generator=generator)
    t = (torch.arange(len(x0)) + 0.5) / len(x0)  # every noise level is seen, so that few pictures suffice
    t = t[torch.randperm(len(x0), generator=generator)]
    return float(flow_loss(velocity(noised(x0, noise, t), t), x0, noise))
