"""Points along a model's own sampling trajectories: what tuning learns from and what velocities are compared on.

Shapes: B points, C latent channels, h x w latent grid, K prompts, L text tokens, T text channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from edgegen.callbacks import Advance
from edgegen.model.checkpoint import Checkpoint
from edgegen.model.dit import DiT
from edgegen.model.sampler import flow_sigmas

MANY = 64  # points a forward pass takes at once


@dataclass(frozen=True)
class Conditions:
    """Encoded prompts; row 0 is the empty one."""

    text: Tensor  # (K, L, T)
    mask: Tensor  # (K, L)
    pooled: Tensor  # (K, T)

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.text[index], self.mask[index], self.pooled[index]


@dataclass(frozen=True)
class Points:
    """Inputs of a transformer on trajectories, and the velocity of the model that drew them."""

    latent: Tensor  # (B, C, h, w)
    t: Tensor  # (B,)
    row: Tensor  # (B,) of the conditions
    velocity: Tensor  # (B, C, h, w)

    def __len__(self) -> int:
        return len(self.t)

    def pick(self, index: Tensor) -> Points:
        return Points(*(getattr(self, f.name)[index] for f in fields(self)))


@dataclass(frozen=True)
class Sampling:
    """How trajectories are drawn: noise levels from 1 to 0, guidance, the latent's shape (C, h, w)."""

    sigmas: tuple[float, ...]
    guidance: float
    shape: tuple[int, int, int]


def sampling_of(checkpoint: Checkpoint, resolution: tuple[int, int] | None = None) -> Sampling:
    """The sampler a checkpoint is meant to be drawn with, at a resolution (pixels) or the one it was trained at."""
    config, sampler = checkpoint.config, checkpoint.sampler
    size = config.latent_size(resolution or config.resolution)
    return Sampling(
        tuple(flow_sigmas(sampler.steps, sampler.shift)), sampler.guidance, (config.transformer.in_channels, *size)
    )


@torch.no_grad()
def encode_prompts(checkpoint: Checkpoint, prompts: Sequence[str]) -> Conditions:
    """The conditions of the empty prompt and of `prompts`."""
    encoders, tokenizers = checkpoint.text_encoders(), checkpoint.tokenizers()
    parts = [encoders(*tokenizers.encode([prompt]).tensors()) for prompt in ("", *prompts)]
    return Conditions(*(torch.cat(column) for column in zip(*parts, strict=True)))


@torch.no_grad()
def velocities(model: DiT, latent: Tensor, t: Tensor, row: Tensor, conditions: Conditions) -> Tensor:
    """The velocity (B, C, h, w) of a model, a few points at a time."""
    parts = [
        model(x, s, *conditions.rows(r))
        for x, s, r in zip(latent.split(MANY), t.split(MANY), row.split(MANY), strict=True)
    ]
    return torch.cat(parts)


def mixed_seed(*parts: object) -> int:
    """A seed of its own for every purpose, of the 32 bits that torch keeps."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, parts)).encode()).digest()[:4], "little")


@torch.no_grad()
def draw_points(
    model: DiT,
    conditions: Conditions,
    sampling: Sampling,
    count: int,
    seed: int,
    progress: Advance = lambda done, of: None,
) -> Points:
    """`count` points of trajectories of random prompts from random noise: a function of the arguments alone.

    With guidance both velocities of a step count as points, with and without the prompt.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = len(sampling.sigmas) - 1
    paths = max(2, -(-count // steps))
    latent = torch.randn(paths, *sampling.shape, generator=generator)
    row = torch.randint(min(1, len(conditions.mask) - 1), len(conditions.mask), (paths,), generator=generator)
    guided, empty, found = sampling.guidance != 1, torch.zeros_like(row), []
    for step, (sigma, following) in enumerate(zip(sampling.sigmas[:-1], sampling.sigmas[1:], strict=True), 1):
        t = torch.full((paths,), sigma)
        velocity = velocities(model, latent, t, row, conditions)
        found.append(Points(latent, t, row, velocity))
        if guided:
            plain = velocities(model, latent, t, empty, conditions)
            found.append(Points(latent, t, empty, plain))
            velocity = plain + sampling.guidance * (velocity - plain)
        latent = latent + (following - sigma) * velocity
        progress(step, steps)
    points = Points(*(torch.cat([getattr(part, f.name) for part in found]) for f in fields(Points)))
    return points.pick(torch.randperm(len(points), generator=generator)[:count])


def velocity_error(model: DiT, points: Points, conditions: Conditions) -> float:
    """Mean squared difference from the velocities of `points`."""
    return float((velocities(model, points.latent, points.t, points.row, conditions) - points.velocity).square().mean())


def velocity_psnr(error: float, points: Points) -> float:
    """Mean squared error in dB below the largest velocity of `points`."""
    peak = points.velocity.abs().max()
    return float(10 * torch.log10(peak.square() / max(error, 1e-30)))
