"""Palettes for any recorded network: sensitivity on its own cases, bits by layer, exact clusters; keyed by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from edgegen.capture.deploy import Traced, deploy
from edgegen.capture.passes import Graph
from edgegen.capture.specialize import output_leaves
from edgegen.errors import InputError
from edgegen.foreign.recording import OTHER, Recorded
from edgegen.quantize.allocate import allocate
from edgegen.quantize.checkpoint import average_bits
from edgegen.quantize.layers import quantizable
from edgegen.quantize.palette import BITS, Palette, palettize
from edgegen.quantize.sensitivity import measure
from edgegen.rewrite.component import Form
from edgegen.verify import Case, psnr

CANDIDATES = (4, 8)


@dataclass(frozen=True)
class Given:
    """What a network is given, in call order, as the measure of sensitivity takes it."""

    inputs: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Palettized:
    """A recording whose weights are what palettes give, the palettes by parameter name, and what that costs."""

    recorded: Recorded
    weights: Mapping[str, Palette]
    bits: float  # reached, per quantized weight
    psnr_db: float  # of the palettized network against the original, both in fp32

    def to_dict(self) -> dict[str, Any]:
        plan = {name: palette.bits for name, palette in self.weights.items()}
        return {"bits": round(self.bits, 4), "psnr_db": round(self.psnr_db, 2), "plan": plan}


def palettize_recorded(recorded: Recorded, budget: float, candidates: Sequence[int] = CANDIDATES) -> Palettized:
    """Palettes of `budget` bits a weight on average; the cases then hold what the palettized network gives in fp32."""
    component = deploy(recorded.traced, Form("batched"), recorded.source.name)
    module = component.module
    layers = quantizable(module)
    if not layers:
        raise InputError(f"the {recorded.source.name} has no layer large enough for a palette.", "Leave --bits out.")
    names = [spec.name for spec in component.inputs]
    batches = [Given(tuple(torch.from_numpy(case.feed[name]) for name in names)) for case in recorded.cases]
    plan = allocate(measure(module, batches, candidates), budget)
    weights = {name: palettize(layers[name], bits, name=name) for name, bits in plan.bits.items()}
    for name, palette in weights.items():
        module.get_parameter(name).data = palette.dense().reshape(layers[name].shape)
    cases, reached = [], []
    for case, batch in zip(recorded.cases, batches, strict=True):
        with torch.no_grad():
            made = {s.name: v.numpy() for s, v in zip(component.outputs, module(*batch.inputs), strict=True)}
        reached += [psnr(case.expected[name], value) for name, value in made.items()]
        cases.append(Case(case.feed, made))
    traced = with_weights(recorded.traced, weights)
    return Palettized(replace(recorded, traced=traced, cases=tuple(cases)), weights, plan.average_bits, min(reached))


def palettize_stored(recorded: Recorded, bits: float) -> Palettized:
    """Palettes of `bits` for every weight that lies on disk, one after the other; the case then holds what the network
    gives with them. Which layers could do with fewer is not measured: that takes a run for each.
    """
    if bits not in BITS:
        raise InputError(
            f"--bits {bits:g} mixes palettes, which is measured in memory; the {recorded.source.name} is streamed.",
            f"Give one of {', '.join(map(str, BITS))}.",
        )
    source, weights = recorded.source, {}
    named = quantizable(deploy(recorded.traced, Form("batched"), source.name).module)
    for name in named:
        if name in source.stored:
            weights[name] = palettize(source.stored.value(name), int(bits), name=name)
    source = replace(source, stored=source.stored.with_palettes(weights))
    (case,) = recorded.cases
    with torch.no_grad(), source.running():
        leaves = output_leaves(source.module(**source.inputs(OTHER)))
    made = {name: leaf.numpy() for name, (_, leaf) in zip(case.expected, leaves, strict=True)}
    reached = min(psnr(case.expected[name], value) for name, value in made.items())
    return Palettized(
        replace(recorded, source=source, cases=(Case(case.feed, made),)), weights, average_bits(weights), reached
    )


def with_weights(traced: Traced, weights: Mapping[str, Palette]) -> Traced:
    """A recording with the dense values of palettes in the place of its weights."""
    names = dict(traced.names)
    constants = dict(traced.graph.constants)
    for node, tensor in traced.graph.constants.items():
        palette = weights.get(traced.names.get(id(tensor), ""))
        if palette is not None:
            constants[node] = palette.dense().reshape(tensor.shape)
            names[id(constants[node])] = names.pop(id(tensor))
    return replace(traced, graph=Graph(traced.graph.graph, constants), names=names)
