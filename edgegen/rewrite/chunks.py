"""A network cut between its segments into chunks, programs that run one after the other.

What a chunk makes and a later one reads is an output of the one and an input of the other; inputs of the network that a
chunk reads are its own inputs too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.rewrite.component import Component, TensorSpec
from edgegen.rewrite.segments import Segment, run_segments

Weight = Callable[[int, int], int]  # bytes of segments `start` to `stop` - 1


@dataclass(frozen=True)
class Chunk:
    """Segments `start` to `stop` - 1 of a network, what they read and give, and the bytes of their weights."""

    start: int
    stop: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int
    bytes: int  # predicted

    @property
    def size(self) -> int:
        """How many segments it has."""
        return self.stop - self.start


def chunk_name(network: str, index: int) -> str:
    """The name of a chunk's program, from 1: transformer_1."""
    return f"{network}_{index + 1}"


def plain_name(value: str) -> str:
    """A value's name as programs allow it: middle.3 -> middle_3."""
    return value.replace(".", "_")


# ---- where to cut ---------------------------------------------------------------------------------------------------


def balanced(parts: int, count: int, weight: Weight) -> tuple[int, ...]:
    """The first of `parts` segments of each of `count` chunks, of which the heaviest is as light as can be."""
    ways: dict[int, tuple[int, tuple[int, ...]]] = {stop: (weight(0, stop), (0,)) for stop in range(1, parts + 1)}
    for _ in range(count - 1):  # the best ways of one chunk more, by where they stop
        ways = {
            stop: min(
                (max(ways[start][0], weight(start, stop)), (*ways[start][1], start)) for start in ways if start < stop
            )
            for stop in range(min(ways) + 1, parts + 1)
        }
    return ways[parts][1]


def fewest(names: Sequence[str], limit: int, weight: Weight) -> tuple[int, ...]:
    """Where the chunks begin when they are as few as `limit` bytes allow; a segment that is larger is an InputError."""
    sizes = [weight(i, i + 1) for i in range(len(names))]
    if max(sizes) > limit:
        worst = sizes.index(max(sizes))
        raise InputError(
            f"{names[worst]} alone has {sizes[worst] / 2**20:.1f} MiB of weights, a chunk may have "
            f"{limit / 2**20:g} MiB, and no cut goes through a block.",
            f"Raise chunk_mib to {-(-sizes[worst] // 2**20)}, quantize the weights, or choose a narrower tier.",
        )
    count = 1
    while heaviest(starts := balanced(len(names), count, weight), len(names), weight) > limit:
        count += 1
    return starts


def heaviest(starts: Sequence[int], parts: int, weight: Weight) -> int:
    """Bytes of the heaviest chunk."""
    return max(weight(start, stop) for start, stop in zip(starts, (*starts[1:], parts), strict=True))


# ---- what chunks read and give --------------------------------------------------------------------------------------


def make_chunks(component: Component, starts: Sequence[int], weight: Weight) -> tuple[Chunk, ...]:
    """The chunks of a component in segments that may be on the meta device; `starts` are their first segments."""
    specs = value_specs(component)
    spans = zip(starts, (*starts[1:], len(component.segments)), strict=True)
    return tuple(make_chunk(component, start, stop, specs, weight(start, stop)) for start, stop in spans)


def make_chunk(component: Component, start: int, stop: int, specs: Mapping[str, TensorSpec], size: int) -> Chunk:
    """One chunk; inputs of the network come first and in call order, then values in the order they are made."""
    segments, later = component.segments[start:stop], component.segments[stop:]
    made = [name for segment in segments for name in segment.outputs]
    read = {name for segment in segments for name in segment.inputs} - set(made)
    wanted = {name for segment in later for name in segment.inputs} | {spec.name for spec in component.outputs}
    parameters = sum(p.numel() for segment in segments for p in segment.module.parameters())
    inputs = tuple(spec for name, spec in specs.items() if name in read)
    outputs = tuple(specs[name] for name in made if name in wanted)
    return Chunk(start, stop, inputs, outputs, parameters, size)


def value_specs(component: Component) -> dict[str, TensorSpec]:
    """Every value of a component by its name among segments, in the order they are made, under a plain name."""
    specs = {spec.name: spec for spec in component.inputs}
    feed = {s.name: torch.empty(s.shape, dtype=getattr(torch, s.dtype), device="meta") for s in component.inputs}
    with torch.no_grad(), torch.device("meta"):
        values = run_segments(component.segments, feed)
    return specs | {n: TensorSpec(plain_name(n), tuple(v.shape)) for n, v in values.items() if n not in specs}


# ---- components -----------------------------------------------------------------------------------------------------


class ChunkModule(nn.Module):
    """Segments that run in order; their weights keep the names that they have in the whole network."""

    def __init__(self, segments: Sequence[Segment], inputs: Sequence[str], outputs: Sequence[str]):
        super().__init__()
        self.segments, self.inputs, self.outputs = tuple(segments), tuple(inputs), tuple(outputs)
        for segment in segments:
            if segment.prefix:
                graft_(self, segment.prefix, segment.module)
                continue
            for name, child in segment.module.named_children():
                graft_(self, name, child)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...] | Tensor:
        values = run_segments(self.segments, dict(zip(self.inputs, inputs, strict=True)))
        made = tuple(values[name] for name in self.outputs)
        return made if len(made) > 1 else made[0]


def graft_(root: nn.Module, path: str, module: nn.Module) -> None:
    """Makes a module part of another at a path such as middle.0."""
    *folders, name = path.split(".")
    for folder in folders:
        if not hasattr(root, folder):
            root.add_module(folder, nn.Module())
        root = getattr(root, folder)
    root.add_module(name, module)


Chain = Callable[[Sequence[Segment], Sequence[str], Sequence[str]], nn.Module]  # segments, inputs, outputs


def chunk_components(component: Component, chunks: Sequence[Chunk], chain: Chain = ChunkModule) -> list[Component]:
    """The components of a network's chunks, in the order they run; of none, the network itself. `chain` makes one
    module of segments.
    """
    if not chunks:
        return [component]
    return [chunk_component(component, index, chunk, chain) for index, chunk in enumerate(chunks)]


def chunk_component(component: Component, index: int, chunk: Chunk, chain: Chain) -> Component:
    """One chunk as a component; the values between segments get plain names."""
    segments = tuple(segment.renamed(plain_name) for segment in component.segments[chunk.start : chunk.stop])
    names = ([spec.name for spec in specs] for specs in (chunk.inputs, chunk.outputs))
    module = chain(segments, *names).eval()
    name = chunk_name(component.name, index)
    return Component(name, module, chunk.inputs, chunk.outputs, component.form, segments)
