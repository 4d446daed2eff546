"""What an export would write: everything that can be known before the work starts is checked here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from edgegen.backends.registry import find_backend, list_backends
from edgegen.bundle import COMPONENTS, MANIFEST, tool_versions
from edgegen.chunking import Chunking, cut_transformer
from edgegen.errors import InputError, unknown
from edgegen.files import free_bytes, user_path
from edgegen.folders import check_apart, check_free, checked_target, left_bytes, listed_files
from edgegen.meter import available_bytes
from edgegen.model.checkpoint import Checkpoint
from edgegen.model.config import position_elements, score_elements
from edgegen.model.elastic import skeleton
from edgegen.model.sampler import flow_sigmas
from edgegen.quantize.stored import StoredWeights, stored_weights
from edgegen.rewrite.chunks import Chunk, chunk_name
from edgegen.target import BackendTarget, Tier, list_tiers

BASE_MEMORY = 2**30  # what the converters take before they see a model: 0.95 GB measured with the bundled one
LONGEST_SIDE = 8192  # pixels of a picture
SCORE_FACTOR = 2.5  # copies of a layer's attention scores at the peak
PIXEL_BYTES = 360  # a pixel of the picture, of what the decoders and the references hold; 330 to 410 measured
WHOLE_COPIES = 3.0  # of the fp32 weights of a component that is converted whole, at the peak


@dataclass(frozen=True)
class Part:
    """An artifact to be, or the chunks of one: `bytes` is predicted from the number of parameters."""

    component: str
    backend: str
    path: str
    parameters: int
    bytes: int
    chunks: tuple[Chunk, ...] = ()  # none: one artifact

    @property
    def paths(self) -> list[str]:
        """The path of each artifact, without its suffix."""
        return [chunk_name(self.path, i) for i in range(len(self.chunks))] or [self.path]

    @property
    def programs(self) -> list[tuple[str, int, int]]:
        """Name, parameters and bytes of each artifact."""
        if not self.chunks:
            return [(self.component, self.parameters, self.bytes)]
        return [(chunk_name(self.component, i), c.parameters, c.bytes) for i, c in enumerate(self.chunks)]


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
    resume: bool = False  # go on with what an interrupted export of the same settings finished
    inside: str = ""  # of several tiers in one bundle a further one: its folder there
    others: tuple[Plan, ...] = ()  # of several tiers the further ones; their parts are what they do not share
    chunking: Chunking = Chunking()  # as it was asked for

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
        return sum(part.bytes for part in self.parts) + sum(other.bytes for other in self.others)

    @property
    def memory_bytes(self) -> int:
        return max(plan.own_memory_bytes for plan in (self, *self.others))

    @property
    def own_memory_bytes(self) -> int:
        scores = 4 * score_elements(self.checkpoint.config.transformer.at(self.tier.width), self.latent_size)
        pixels = self.resolution[0] * self.resolution[1]
        weights = max(self.weights_while_writing(part) for part in self.parts)
        return round(BASE_MEMORY + weights + SCORE_FACTOR * scores + PIXEL_BYTES * pixels)

    def weights_while_writing(self, part: Part) -> float:
        """Bytes of weights at the peak of a part's export: its own, and once those of the other networks."""
        others = sum({other.component: other.parameters for other in self.parts}.values()) - part.parameters
        target, copies = self.tier.backend(part.backend), WHOLE_COPIES
        if part.component == "transformer":
            copies = find_backend(part.backend).export_copies(target, part.parameters)
        return 4 * (copies * part.parameters + others)

    def settings(self) -> dict:
        """What must be the same for an export to go on with another's artifacts."""
        return {
            "checkpoint": {key: value for key, value in self.checkpoint.origin.items() if key != "path"},
            "tier": [asdict(plan.tier) for plan in (self, *self.others)],
            "resolution": list(self.resolution),
            "chunks": asdict(self.chunking),
            "tool_versions": tool_versions(),
        }

    @property
    def asked(self) -> str:
        """sha256 of the settings, with what is to be made of them."""
        values = self.settings() | {"backends": self.backends, "components": self.components}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict:
        return {
            "model": self.checkpoint.config.name,
            "tier": self.tier.name,
            "width": self.tier.width,
            "resolution": list(self.resolution),
            "out": str(self.out),
            "random_weights": self.checkpoint.is_random,
            "components": [asdict(part) for part in self.parts],
            **({"tiers": [other.to_dict() for other in self.others]} if self.others else {}),
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
    resume: bool = False,
    chunking: Chunking = Chunking(),
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
    parts = in_chunks(parts, checkpoint, tier, config.latent_size(resolution), weights, chunking)
    out = user_path(out or Path("out") / config.name / tier.name)
    checked_target(out)
    check_apart(out, checkpoint.folder, "checkpoint")
    if not (resume and listed_files(out / MANIFEST)):  # a finished one is looked at when all is known
        check_free(out, MANIFEST, overwrite)
    return Plan(tier, checkpoint, backends, components, resolution, out, overwrite, parts, resume, chunking=chunking)


def plan_tiers(
    checkpoint: Checkpoint,
    tiers: Sequence[Tier],
    backends: Sequence[str] = (),
    components: Sequence[str] = (),
    resolution: tuple[int, int] | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    chunking: Chunking = Chunking(),
) -> Plan:
    """One bundle for several tiers: of the first everything, of the others their transformers."""
    first, *others = tiers
    backends = tuple(backends) or first.default_backends
    if not others:
        return make_plan(checkpoint, first, backends, components, resolution, out, overwrite, resume, chunking)
    check_tiers(tiers, backends, components)
    out = out or Path("out") / checkpoint.config.name / "+".join(tier.name for tier in tiers)
    plan = make_plan(checkpoint, first, backends, components, resolution, out, overwrite, resume, chunking)
    return replace(plan, others=tuple(further_plan(plan, tier) for tier in others))


def further_plan(first: Plan, tier: Tier) -> Plan:
    """A further tier of a bundle: of all parts only its transformers are to be made."""
    size = first.resolution
    plan = make_plan(
        first.checkpoint, tier, first.backends, first.components, size, first.out, first.overwrite, first.resume,
        chunking=first.chunking,
    )  # fmt: skip
    parts = tuple(
        replace(part, path=f"{tier.name}/{part.path}") for part in plan.parts if part.component == "transformer"
    )
    return replace(plan, parts=parts, inside=tier.name)


def check_tiers(tiers: Sequence[Tier], backends: Sequence[str], components: Sequence[str]) -> None:
    """Refuses tiers that cannot share a text encoder and a decoder."""
    first, names = tiers[0], [tier.name for tier in tiers]
    if len(set(names)) < len(names):
        raise InputError(f"--tier names {max(names, key=names.count)} twice.", "Name each once.")
    if components and "transformer" not in components:
        raise InputError("--tier names several, which differ in the transformer alone.", "Name one, or --components.")
    for tier in tiers[1:]:
        if tier.resolution != first.resolution:
            raise InputError(f"tiers {first.name} and {tier.name} have other resolutions.", "Export each on its own.")
        for name in backends:
            if form_of(tier.backend(name)) != form_of(first.backend(name)):
                raise InputError(
                    f"tiers {first.name} and {tier.name} give {name} another form: a bundle of both shares what is "
                    "not the transformer.",
                    "Export each on its own.",
                )


def form_of(target: BackendTarget) -> tuple:
    """What decides how a network without quantized weights is written for a back end."""
    return target.attention, target.query_chunk, target.operations, target.precision, target.deployment_target


def predicted_part(
    name: str, target: BackendTarget, parameters: int, weights: StoredWeights | None = None, tables: int = 0
) -> Part:
    """An artifact to be; `tables` are numbers that it holds beside its parameters."""
    backend = find_backend(target.name)
    size = backend.predicted_bytes(parameters, weights or {}, target) + tables * backend.precision_bytes
    return Part(name, target.name, f"{target.name}/{name}", parameters, size)


def in_chunks(
    parts: tuple[Part, ...],
    checkpoint: Checkpoint,
    tier: Tier,
    latent_size: tuple[int, int],
    weights: StoredWeights,
    chunking: Chunking,
) -> tuple[Part, ...]:
    """The parts, those that can be cut in the chunks asked for or the tier's; chunks of nothing are an InputError."""

    def cut(part: Part) -> Part:
        target = tier.backend(part.backend)
        chunks = cut_transformer(checkpoint, tier.width, latent_size, target, weights, chunking.of(target))
        return replace(part, bytes=sum(chunk.bytes for chunk in chunks), chunks=chunks) if chunks else part

    if chunking.is_asked and not any(can_be_cut(part) for part in parts):
        able = " or ".join(backend.name for backend in list_backends() if backend.write_chunks)
        raise InputError(
            f"nothing that is exported can be cut into chunks: that is the transformer for {able}.",
            "Name both in --backend and --components, or leave --chunks and --chunk-mib out.",
        )
    return tuple(cut(part) if can_be_cut(part) else part for part in parts)


def can_be_cut(part: Part) -> bool:
    """Whether a part may be written in several programs."""
    return part.component == "transformer" and find_backend(part.backend).write_chunks is not None


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
    free = free_bytes(plan.out) + left_bytes(plan.out)
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
