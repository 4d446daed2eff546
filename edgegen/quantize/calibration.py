"""Inputs a network meets when it draws: latents along its own trajectories, at its own sigmas, with and without text.

Shapes: B batch, C latent channels, h x w latent grid, L text tokens, T text channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgegen.callbacks import Advance
from edgegen.errors import EdgegenError
from edgegen.model.checkpoint import Checkpoint
from edgegen.model.dit import DiT
from edgegen.model.sampler import euler, flow_sigmas, guide, initial_noise

PROMPTS = (
    "a red heart", "a yellow star", "a cat face", "a bicycle", "two dogs on a green background", "a blue car",
    "three strawberries", "a rocket above a house", "a small purple flower", "a pizza next to a cup of coffee",
    "a penguin with a hat", "a large orange pumpkin", "a flat icon of a guitar", "a sun and a cloud",
    "a pink fish left of a yellow boat", "an owl", "a hamburger on a blue background", "a green frog under a tree",
    "two balloons", "a camera", "a snowman", "a rainbow", "a black cat and a white rabbit", "a key",
    "three bananas", "a robot", "an umbrella", "a happy face with sunglasses", "a cactus", "a butterfly on a rose",
    "a brown bear", "a crown",
)  # fmt: skip
TOKENS = 8192  # of one batch: bounds the memory of activations


@dataclass(frozen=True)
class Batch:
    """Arguments of `DiT.forward`, and what the unquantized network gives for them."""

    latent: Tensor  # (B, C, h, w)
    t: Tensor  # (B,)
    text: Tensor  # (B, L, T)
    mask: Tensor  # (B, L)
    pooled: Tensor  # (B, T)
    velocity: Tensor  # (B, C, h, w)

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.latent, self.t, self.text, self.mask, self.pooled


def default_prompts(checkpoint: Checkpoint) -> list[str]:
    """The checkpoint's own prompts, then common ones."""
    return list(dict.fromkeys([*checkpoint.config.prompts, *PROMPTS]))


@torch.no_grad()
def calibrate(
    checkpoint: Checkpoint,
    transformer: DiT,
    prompts: Sequence[str],
    seed: int = 0,
    latent_size: tuple[int, int] | None = None,
    progress: Advance = lambda done, of: None,
) -> list[Batch]:
    """Draws a latent for every prompt, noise seed `seed` + its number, and keeps every call of the network.

    Where the sampler guides, half of the calls are without text. One batch a step and group of prompts.
    """
    config, sampler = transformer.config, checkpoint.sampler
    size = latent_size or (config.grid[0] * config.patch, config.grid[1] * config.patch)
    tokens = (size[0] // config.patch) * (size[1] // config.patch)
    guided = sampler.guidance != 1
    group = max(1, TOKENS // (tokens * (2 if guided else 1)))
    conditions = encode(checkpoint, [*prompts, ""])
    sigmas = flow_sigmas(sampler.steps, sampler.shift)
    batches: list[Batch] = []
    for start in range(0, len(prompts), group):
        chosen = list(range(start, min(start + group, len(prompts))))
        rows = [*chosen, *([len(prompts)] * len(chosen) if guided else [])]
        text, mask, pooled = (part[rows] for part in conditions)
        noise = np.concatenate([initial_noise((1, config.in_channels, *size), seed + i) for i in chosen])
        recorder = _Recorder(transformer, (text, mask, pooled), sampler.guidance if guided else None, batches)
        for _ in euler(recorder, noise, sigmas):
            progress(len(batches), sampler.steps * -(-len(prompts) // group))
    return batches


def encode(checkpoint: Checkpoint, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Text (B, L, T), mask (B, L) and pooled text (B, T) of prompts."""
    encoders, tokenizers = checkpoint.text_encoders(), checkpoint.tokenizers()
    encoded = [encoders(*tokenizers.encode([prompt]).tensors()) for prompt in prompts]
    text, mask, pooled = (torch.cat(parts) for parts in zip(*encoded, strict=True))
    return text, mask, pooled


class _Recorder:
    """The guided velocity as `euler` asks for it; keeps what the network was given and gave."""

    def __init__(
        self, transformer: DiT, condition: tuple[Tensor, Tensor, Tensor], guidance: float | None, batches: list[Batch]
    ):
        self.transformer, self.condition, self.guidance, self.batches = transformer, condition, guidance, batches

    def __call__(self, latent: np.ndarray, sigma: float) -> np.ndarray:
        given = torch.from_numpy(latent)
        if self.guidance is not None:
            given = torch.cat([given, given])
        t = torch.full((given.shape[0],), sigma)
        velocity = self.transformer(given, t, *self.condition)
        if not torch.isfinite(velocity).all():
            raise EdgegenError(f"the velocity at sigma {sigma:g} is not finite.", "Calibrate another checkpoint.")
        self.batches.append(Batch(given, t, *self.condition, velocity))
        if self.guidance is None:
            return velocity.numpy()
        conditional, unconditional = velocity.numpy().reshape(2, -1, *latent.shape[1:])
        return guide(conditional, unconditional, self.guidance)


def spread(batches: Sequence[Batch], rows: int, seed: int = 0) -> list[Batch]:
    """At most `rows` rows of all batches, drawn evenly over them: for what takes a forward pass a layer."""
    generator = torch.Generator().manual_seed(seed)
    each = max(1, rows // len(batches))
    step = max(1, len(batches) * each // rows)
    kept = []
    for batch in batches[::step]:
        chosen = torch.randperm(batch.t.numel(), generator=generator)[:each].sort().values
        kept.append(Batch(*(tensor[chosen] for tensor in (*batch.inputs, batch.velocity))))
    return [Batch(*(torch.cat(parts) for parts in zip(*((*b.inputs, b.velocity) for b in kept), strict=True)))]
