"""What is evaluated: a checkpoint's transformers, or a bundle's artifacts, as functions that draw and that denoise.

Shapes: N prompts, B batch, C latent channels, h x w latent grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgegen.apps.foreign import refuse_foreign
from edgegen.bundle import load_bundle
from edgegen.errors import InputError
from edgegen.evaluate.drawing import Draw, EncodedPrompts, batches, bundle_draw, torch_draw
from edgegen.generate import checkpoint_of, choose_backend
from edgegen.model.checkpoint import Checkpoint, bundled_folder, load_checkpoint
from edgegen.model.dit import DiT
from edgegen.model.flow import Velocity
from edgegen.model.sampler import SamplerConfig, flow_sigmas
from edgegen.pipeline.networks import ArtifactNetworks, conditions


@dataclass(frozen=True)
class Subject:
    """A model at one width: `draws(sampler, seed, samples)`, and `velocity`, which sees every prompt's own text."""

    name: str
    width: float
    draws: Callable[[SamplerConfig, int, int], Draw]
    velocity: Velocity
    sampler: SamplerConfig  # the model's own


def transformer_subject(
    checkpoint: Checkpoint, name: str, dit: DiT, width: float, condition: EncodedPrompts, batch: int = 16
) -> Subject:
    """A plain transformer with the text encoders and decoder of a checkpoint."""
    decoder = checkpoint.decoder()

    def draws(sampler: SamplerConfig, seed: int, samples: int) -> Draw:
        sigmas = flow_sigmas(sampler.steps, sampler.shift)
        return torch_draw(dit, decoder, condition, sigmas, sampler.guidance, seed, samples)

    return Subject(name, width, draws, torch_velocity(dit, condition, batch), checkpoint.sampler)


def torch_velocity(dit: DiT, condition: EncodedPrompts, batch: int = 16) -> Velocity:
    """The unguided velocity of latents (N,C,h,w), row i with prompt i."""

    @torch.no_grad()
    def velocity(latent: Tensor, t: Tensor) -> Tensor:
        parts = [
            dit(latent[rows], t[rows], *condition.rows(rows).arguments(False))
            for rows in batches(range(len(latent)), batch)
        ]
        return torch.cat(parts)

    return velocity


def bundle_subject(folder: Path, prompts: Sequence[str], backend: str | None = None) -> Subject:
    """The artifacts of a bundle on one back end; a bundle without a whole one is an error."""
    bundle = load_bundle(folder)
    refuse_foreign(bundle, "edgegen evaluate")
    chosen = choose_backend(bundle, backend)
    if chosen == "torch":
        raise InputError("back end torch is a checkpoint, not a bundle's artifacts.", "Use --checkpoint.")
    networks, manifest = ArtifactNetworks(bundle, chosen, native=True), bundle.manifest

    def draws(sampler: SamplerConfig, seed: int, samples: int) -> Draw:
        sigmas = flow_sigmas(sampler.steps, sampler.shift)
        return bundle_draw(networks, prompts, manifest.latent_shape, sigmas, sampler.guidance, seed, samples)

    def velocity(latent: Tensor, t: Tensor) -> Tensor:
        rows = []
        for index in range(len(latent)):
            encoded, _ = conditions(networks, [prompts[index]])
            rows.append(networks.velocity(latent[index : index + 1].numpy(), float(t[index]), encoded[0]))
        return torch.from_numpy(np.concatenate(rows))

    own = SamplerConfig(manifest.steps, manifest.shift, manifest.guidance)
    return Subject(f"{manifest.model}, tier {manifest.tier}, {chosen}", manifest.width, draws, velocity, own)


def bundle_origin(folder: Path) -> tuple[dict[str, Any], Checkpoint | None]:
    """What a bundle was made of, and that checkpoint where it is still there: its encoder gives validation latents."""
    bundle = load_bundle(folder, check=False)
    told = {"bundle": str(folder), "checkpoint": bundle.manifest.checkpoint}
    try:
        return told, checkpoint_of(bundle, None)
    except InputError:
        return told, None


def checkpoint_subjects(
    checkpoint: Checkpoint, widths: Sequence[float], condition: EncodedPrompts, base: bool = False, batch: int = 16
) -> list[Subject]:
    """One subject a width; `base` leaves out few-step adapters."""
    name = checkpoint.config.name + (", base" if base else "")
    return [
        transformer_subject(checkpoint, name, checkpoint.transformer(width, adapters=not base), width, condition, batch)
        for width in widths
    ]


def open_checkpoint(folder: Path | None) -> Checkpoint:
    """The checkpoint of a folder, or the bundled one."""
    return load_checkpoint(folder or bundled_folder())
