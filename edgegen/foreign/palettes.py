"""Palettes for any recorded network: sensitivity on its own cases, bits by layer, exact clusters; keyed by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from edgegen.callbacks import Advance
from edgegen.capture.deploy import Traced, deploy
from edgegen.capture.passes import Graph
from edgegen.capture.specialize import output_leaves
from edgegen.errors import InputError
from edgegen.foreign.recording import OTHER, Recorded
from edgegen.foreign.streamed_bits import measure_stored
from edgegen.quantize.allocate import allocate
from edgegen.quantize.checkpoint import average_bits
from edgegen.quantize.layers import quantizable
from edgegen.quantize.palette import Palette, palettize
from edgegen.quantize.sensitivity import Sensitivity, measure
from edgegen.rewrite.component import Component, Form
from edgegen.verify import Case, psnr

CANDIDATES = (4, 8)
SEEN = 0  # the seed of the inputs that streamed layers are measured on: none of verification's


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


def palettize_recorded(
    recorded: Recorded, budget: float, candidates: Sequence[int] = CANDIDATES, advance: Advance = lambda done, of: None
) -> Palettized:
    """Palettes of `budget` bits a weight on average; the cases then hold what the palettized network gives in fp32.

    A `budget` that is a candidate is that of every palette; another mixes `candidates` by what layers lose. Of a
    network whose weights lie on disk those alone are palettized.
    """
    component = deploy(recorded.traced, Form("batched"), recorded.source.name)
    stored, layers = recorded.source.stored, quantizable(component.module)
    layers = {name: weight for name, weight in layers.items() if name in stored or not len(stored)}
    if not layers:
        raise InputError(f"the {recorded.source.name} has no layer large enough for a palette.", "Leave --bits out.")
    if len(stored):
        measured = partial(measure_stored, recorded.source, layers, candidates, SEEN, advance)
        return palettized_on_disk(recorded, bits_of(layers, budget, candidates, measured))
    names = [spec.name for spec in component.inputs]
    batches = [Given(tuple(torch.from_numpy(case.feed[name]) for name in names)) for case in recorded.cases]
    measured = partial(measure, component.module, batches, candidates, progress=advance)
    return palettized_in_memory(recorded, component, batches, bits_of(layers, budget, candidates, measured))


def bits_of(
    layers: Mapping[str, Tensor],
    budget: float,
    candidates: Sequence[int],
    measured: Callable[[], Sequence[Sensitivity]],
) -> dict[str, int]:
    """How many bits each layer gets."""
    if budget in candidates:
        return dict.fromkeys(layers, int(budget))
    return allocate(measured(), budget).bits


def palettized_in_memory(
    recorded: Recorded, component: Component, batches: Sequence[Given], bits: Mapping[str, int]
) -> Palettized:
    """A recording with palettes of so many bits by weight name; `component` gets their values."""
    module, weights = component.module, {}
    for name, chosen in bits.items():
        weight = module.get_parameter(name)
        weights[name] = palettize(weight.detach(), chosen, name=name)
        weight.data = weights[name].dense().reshape(weight.shape)
    cases, reached = [], []
    for case, batch in zip(recorded.cases, batches, strict=True):
        with torch.no_grad():
            made = {s.name: v.numpy() for s, v in zip(component.outputs, module(*batch.inputs), strict=True)}
        reached += [psnr(case.expected[name], value) for name, value in made.items()]
        cases.append(Case(case.feed, made))
    changed = replace(recorded, traced=with_weights(recorded.traced, weights), cases=tuple(cases))
    return Palettized(changed, weights, average_bits(weights), min(reached))


def palettized_on_disk(recorded: Recorded, bits: Mapping[str, int]) -> Palettized:
    """The same of a network whose weights lie on disk, one in memory after the other."""
    source = recorded.source
    weights = {name: palettize(source.stored.value(name), chosen, name=name) for name, chosen in bits.items()}
    source = replace(source, stored=source.stored.with_palettes(weights))
    (case,) = recorded.cases
    with torch.no_grad(), source.running():
        leaves = output_leaves(source.module(**source.inputs(OTHER)))
    made = {name: leaf.numpy() for name, (_, leaf) in zip(case.expected, leaves, strict=True)}
    reached = min(psnr(case.expected[name], value) for name, value in made.items())
    changed = replace(recorded, source=source, cases=(Case(case.feed, made),))
    return Palettized(changed, weights, average_bits(weights), reached)


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
