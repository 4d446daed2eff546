"""How many chunks a transformer is written in, and where it is cut: known before the work starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import torch

from edgegen.errors import InputError
from edgegen.model.checkpoint import Checkpoint
from edgegen.model.elastic import skeleton
from edgegen.quantize.stored import StoredWeights
from edgegen.rewrite.build import transformer_component
from edgegen.rewrite.chunks import Chunk, Weight, balanced, fewest, make_chunks
from edgegen.rewrite.component import Component, Form
from edgegen.rewrite.segments import Segment
from edgegen.target import BackendTarget

MOST = 32  # chunks of a network
BLOB, STORED_BLOBS = 128, 512  # the most bytes that a weight file adds to a constant, and to a quantized one besides


@dataclass(frozen=True)
class Chunking:
    """What is asked of a network's chunks: their number, or the most MiB of weights of each; nothing for the tier's."""

    count: int | None = None
    mib: int | None = None

    def __post_init__(self) -> None:
        if self.count is not None and self.mib is not None:
            raise InputError("--chunks and --chunk-mib exclude each other.", "Give one of them.")
        if self.count is not None and not 1 <= self.count <= MOST:
            raise InputError(f"--chunks {self.count} is outside 1 to {MOST}.")
        if self.mib is not None and not 1 <= self.mib <= 2**20:
            raise InputError(f"--chunk-mib {self.mib} is outside 1 to {2**20}.")

    @property
    def is_asked(self) -> bool:
        return self.count is not None or self.mib is not None

    def of(self, target: BackendTarget) -> Chunking:
        """What was asked or, where nothing was, what the tier says."""
        return self if self.is_asked else Chunking(mib=target.chunk_mib)


def cut_transformer(
    checkpoint: Checkpoint,
    width: float,
    latent_size: tuple[int, int],
    target: BackendTarget,
    weights: StoredWeights,
    asked: Chunking,
) -> tuple[Chunk, ...]:
    """The chunks of a transformer, none where one program will do; what cannot be cut so is an InputError."""
    if asked.mib is None and (asked.count or 1) == 1:
        return ()
    component = outline(checkpoint, width, latent_size, target)
    weight = weight_of(component, {"float16": 2, "float32": 4}[target.precision], weights)
    starts = starts_of(component, asked, weight)
    return make_chunks(component, starts, weight) if len(starts) > 1 else ()


def starts_of(component: Component, asked: Chunking, weight: Weight) -> tuple[int, ...]:
    """The first segment of each chunk."""
    names = [segment.name for segment in component.segments]
    if asked.mib is not None:
        starts = fewest(names, asked.mib * 2**20, weight)
        if len(starts) > MOST:
            raise InputError(
                f"chunks of {asked.mib} MiB would be {len(starts)}, the most are {MOST}.", "Raise --chunk-mib."
            )
        return starts
    count = asked.count or 1
    if count > len(names):
        raise InputError(
            f"the transformer has {len(names)} parts to cut between, {count} chunks were asked for.",
            f"Give --chunks {len(names)} or fewer.",
        )
    return balanced(len(names), count, weight)


def outline(checkpoint: Checkpoint, width: float, latent_size: tuple[int, int], target: BackendTarget) -> Component:
    """The transformer as a back end gets it, without weights, on the meta device."""
    text = checkpoint.config.text
    tokens = sum(part.length for part in (text.word, text.byte) if part)
    form = Form(target.attention, target.query_chunk, target.operations)
    with torch.device("meta"):
        return transformer_component(skeleton(checkpoint.config.transformer.at(width)), latent_size, tokens, form)


def weight_of(component: Component, number: int, weights: StoredWeights) -> Weight:
    """The most bytes that the weight file of segments `start` to `stop` - 1 has; `number` are those of a number that is
    not quantized. A constant that several segments share is in the file once.
    """
    own = [sum(parameter_bytes(segment, number, weights)) for segment in component.segments]
    shared = [constant_bytes(segment, number) for segment in component.segments]

    def weight(start: int, stop: int) -> int:
        constants: dict[tuple, int] = {}
        for found in shared[start:stop]:
            constants |= found
        return sum(own[start:stop]) + sum(constants.values())

    return cache(weight)


def parameter_bytes(segment: Segment, number: int, weights: StoredWeights) -> Iterator[int]:
    """Bytes of each parameter of a segment."""
    for name, parameter in segment.module.named_parameters():
        stored = weights.get(segment.full(name))
        yield BLOB + (parameter.numel() * number if stored is None else stored.nbytes + STORED_BLOBS)


def constant_bytes(segment: Segment, number: int) -> Mapping[tuple, int]:
    """Bytes of each constant of a segment, such as a table of cosines, by what tells it from others."""
    named = ((name.rpartition(".")[2], buffer) for name, buffer in segment.module.named_buffers())
    return {(name, tuple(buffer.shape)): BLOB + buffer.numel() * number for name, buffer in named}
