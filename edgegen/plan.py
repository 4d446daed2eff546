"""What an export would write: everything that can be known before the work starts is checked here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgegen.backends.registry import find_backend
from edgegen.bundle import COMPONENTS, MANIFEST
from edgegen.errors import InputError, unknown
from edgegen.files import free_bytes, user_path
from edgegen.folders import check_apart, check_free, checked_target
from edgegen.meter import available_bytes
from edgegen.model.checkpoint import Checkpoint
from edgegen.model.config import position_elements, score_elements
from edgegen.model.elastic import skeleton
from edgegen.model.sampler import flow_sigmas
from edgegen.quantize.stored import StoredWeights, stored_weights
from edgegen.target import BackendTarget, Tier, list_tiers

BASE_MEMORY = 2**30  # what the converters take before they see a model: 0.95 GB measured with the bundled one
LONGEST_SIDE = 8192  # pixels of a picture
SCORE_FACTOR = 2.5  # copies of a layer's attention scores at the peak
PIXEL_BYTES = 360  # a pixel of the picture, of what the decoders and the references hold; 330 to 410 measured
MEMORY_FACTOR = 3.0  # copies of the largest component's fp32 weights at the peak; 2.8 measured at 430M parameters


@dataclass(frozen=True)
class Part:
    """An artifact to be: `bytes` is predicted from the number of parameters."""

    component: str
    backend: str
    path: str
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Plan:
    """An export that was found possible; nothing is written yet."""

    tier: Tier
    checkpoint: Checkpoint
    backends: tuple[str, ...]
    components: tuple[str, ...]
    resolution: tuple[int, int]  # pixels: width, height
    out: Path
    overwrite: bool
    parts: tuple[Part, ...]

    @property
    def latent_size(self) -> tuple[int, int]:
        return self.checkpoint.config.latent_size(self.resolution)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return (1, self.checkpoint.config.transformer.in_channels, *self.latent_size)

    @property
    def sigmas(self) -> list[float]:
        return flow_sigmas(self.checkpoint.sampler.steps, self.checkpoint.sampler.shift)

    @property
    def parameters(self) -> int:
        return max(part.parameters for part in self.parts)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    @property
    def memory_bytes(self) -> int:
        scores = 4 * score_elements(self.checkpoint.config.transformer.at(self.tier.width), self.latent_size)
        pixels = self.resolution[0] * self.resolution[1]
        held = MEMORY_FACTOR * 4 * self.parameters + SCORE_FACTOR * scores + PIXEL_BYTES * pixels
        return round(BASE_MEMORY + held)

    def to_dict(self) -> dict:
        return {
            "model": self.checkpoint.config.name,
            "tier": self.tier.name,
            "width": self.tier.width,
            "resolution": list(self.resolution),
            "out": str(self.out),
            "random_weights": self.checkpoint.is_random,
            "components": [asdict(part) for part in self.parts],
            "bytes": self.bytes,
            "memory_bytes": self.memory_bytes,
            "source": "predicted",
        }


def make_plan(
    checkpoint: Checkpoint,
    tier: Tier,
    backends: Sequence[str] = (),
    components: Sequence[str] = (),
    resolution: tuple[int, int] | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> Plan:
    """Checks everything that can be checked before the work starts."""
    config = checkpoint.config
    check_width(checkpoint, tier)
    backends = tuple(dict.fromkeys(backends)) or tier.default_backends
    components = tuple(dict.fromkeys(components)) or COMPONENTS
    for name in components:
        if name not in COMPONENTS:
            raise unknown("component", name, COMPONENTS)
    components = tuple(name for name in COMPONENTS if name in components)
    resolution = resolution or tier.resolution or config.resolution
    check_resolution(resolution)
    config.latent_size(resolution)
    sizes = parameter_counts(checkpoint, tier.width)
    weights = stored_weights(checkpoint) if "transformer" in components else {}
    for backend in backends:
        find_backend(backend).check(weights, tier.backend(backend))
    tables = position_elements(config.transformer.at(tier.width), config.latent_size(resolution))
    parts = tuple(
        predicted_part(name, tier.backend(backend), sizes[name], *((weights, tables) if name == "transformer" else ()))
        for backend in backends
        for name in components
    )
    out = user_path(out or Path("out") / config.name / tier.name)
    checked_target(out)
    check_apart(out, checkpoint.folder, "checkpoint")
    check_free(out, MANIFEST, overwrite)
    return Plan(tier, checkpoint, backends, components, resolution, out, overwrite, parts)


def predicted_part(
    name: str, target: BackendTarget, parameters: int, weights: StoredWeights | None = None, tables: int = 0
) -> Part:
    """An artifact to be; `tables` are numbers that it holds beside its parameters."""
    backend = find_backend(target.name)
    size = backend.predicted_bytes(parameters, weights or {}, target) + tables * backend.precision_bytes
    return Part(name, target.name, f"{target.name}/{name}", parameters, size)


def check_width(checkpoint: Checkpoint, tier: Tier) -> None:
    """Refuses a tier of a width that the checkpoint does not have, and names the tiers that would do."""
    try:
        checkpoint.check_width(tier.width)
    except InputError as error:
        quantized = checkpoint.config.quantization
        widths = (quantized.width,) if quantized else checkpoint.config.transformer.widths
        fitting = [other.name for other in list_tiers() if other.width in widths]
        told = f"Tiers that fit: {', '.join(fitting)}." if fitting else "No tier that ships has one of its widths."
        kept = f"{error.remedy} " if quantized else ""  # it names the width to quantize
        raise InputError(f"tier {tier.name}: {error.message}", f"{kept}{told}") from None


def check_resolution(resolution: tuple[int, int]) -> None:
    """Refuses pictures that no phone draws, before their sizes are multiplied."""
    if max(resolution) > LONGEST_SIDE:
        raise InputError(
            f"resolution {resolution[0]}x{resolution[1]} has a side of more than {LONGEST_SIDE} pixels.",
            "Choose a smaller --resolution.",
        )


def parameter_counts(checkpoint: Checkpoint, width: float) -> dict[str, int]:
    """Parameters of each component at a width."""
    counts = {"transformer": sum(p.numel() for p in skeleton(checkpoint.config.transformer.at(width)).parameters())}
    for name in ("text_encoder", "decoder"):
        counts[name] = sum(int(np.prod(shape)) for shape in checkpoint.shapes(name).values())
    return counts


def check_space(plan: Plan) -> None:
    """Refuses an export that the disk or the memory cannot hold, before the work."""
    free = free_bytes(plan.out)
    if free < plan.bytes:
        raise InputError(
            f"the disk of {plan.out} is full: {free / 2**20:.0f} MiB free, about {plan.bytes / 2**20:.0f} MiB needed.",
            "Free some space, or choose another --out.",
        )
    memory = available_bytes()
    if memory < plan.memory_bytes:
        raise InputError(
            f"about {plan.memory_bytes / 2**30:.1f} GiB of memory are needed, {memory / 2**30:.1f} GiB are free.",
            "Close other programs, choose a narrower tier, or a smaller --resolution.",
        )
