"""A recorded network in chunks: where it is cut, the component of each, and what the network has between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from edgegen.backends.registry import find_backend, list_backends
from edgegen.capture.segments import Piece
from edgegen.chunking import Chunking, starts_of, weight_of
from edgegen.errors import InputError
from edgegen.foreign.streamed import Stored, streaming
from edgegen.quantize.stored import StoredWeights
from edgegen.rewrite.chunks import Chunk, make_chunk, plain_name
from edgegen.rewrite.component import Component, TensorSpec
from edgegen.rewrite.segments import Segment, run_segments
from edgegen.target import BackendTarget

BYTES = {"float16": 2, "float32": 4}


class PieceChain(nn.Module):
    """Segments that run in order."""

    def __init__(self, segments: Sequence[Segment], inputs: Sequence[str], outputs: Sequence[str]):
        super().__init__()
        self.parts = nn.ModuleList(segment.module for segment in segments)
        self.segments, self.inputs, self.outputs = tuple(segments), tuple(inputs), tuple(outputs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values = run_segments(self.segments, dict(zip(self.inputs, inputs, strict=True)))
        return tuple(values[name] for name in self.outputs)


def check_chunks(asked: Chunking, targets: Sequence[BackendTarget]) -> None:
    """Refuses to cut where no back end takes a network in several programs."""
    if asked.is_asked and not any(find_backend(target.name).write_chunks for target in targets):
        able = " or ".join(backend.name for backend in list_backends() if backend.write_chunks)
        raise InputError(
            f"nothing that is exported can be cut into chunks: that is done for {able}.",
            "Name it in --backend, or leave --chunks and --chunk-mib out.",
        )


def cut_network(component: Component, target: BackendTarget, weights: StoredWeights, asked: Chunking) -> list[Chunk]:
    """The chunks of a network in segments, none where one program will do."""
    if find_backend(target.name).write_chunks is None or (asked.mib is None and (asked.count or 1) == 1):
        return []
    if not component.segments:
        raise InputError(f"the {component.name} has no list of blocks to cut between.", "Leave --chunks out.")
    weight = weight_of(component, BYTES[target.precision], weights)
    starts = starts_of(component, asked, weight)
    specs = {spec.name: spec for spec in component.inputs}
    for piece in component.segments:
        assert isinstance(piece, Piece)
        specs |= {spec.name: TensorSpec(plain_name(spec.name), spec.shape) for spec in piece.specs}
    ends = (*starts[1:], len(component.segments))
    spans = list(zip(starts, ends, strict=True)) if len(starts) > 1 else []
    return [make_chunk(component, start, stop, specs, weight(start, stop)) for start, stop in spans]


@torch.no_grad()
def run_pieces(
    component: Component, feed: Mapping[str, np.ndarray], stored: Stored, kept: Sequence[str]
) -> dict[str, np.ndarray]:
    """What the segments of a component give in fp32, streamed one after the other; `kept` names plain values."""
    values = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in feed.items()}
    found: dict[str, np.ndarray] = {}
    for place, piece in enumerate(component.segments):
        assert isinstance(piece, Piece)
        with streaming(piece.module, stored, piece.names):
            values |= run_segments([piece], values)
        found |= {plain_name(name): values[name].numpy() for name in piece.outputs if plain_name(name) in kept}
        read = {name for later in component.segments[place + 1 :] for name in later.inputs}
        values = {name: value for name, value in values.items() if name in read}
    return found
