"""How much each layer loses at each number of bits, arXiv 2601.08303 section 6: the mean squared error of its output
when it alone is quantized, on real inputs.

A layer's own output needs only its inputs, so one pass of the unquantized network measures all layers at all bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from edgegen.callbacks import Advance
from edgegen.errors import InputError
from edgegen.quantize.calibration import Batch
from edgegen.quantize.layers import quantizable
from edgegen.quantize.moments import Moments
from edgegen.quantize.palette import Palette, palette_bytes, palettize

MEMORY = 2**30  # bytes of second moments held at once; a model that needs more takes more passes


class Inputs(Protocol):
    """Arguments of a network, in call order."""

    @property
    def inputs(self) -> tuple[Tensor, ...]: ...


@dataclass(frozen=True)
class Sensitivity:
    """One layer; errors by bits."""

    name: str
    shape: tuple[int, ...]
    count: int  # elements
    power: float  # mean square of the unquantized output, without bias
    output: dict[int, float]  # mean squared error of the output; none: not measured
    bytes: dict[int, int]
    velocity: dict[int, float] = field(default_factory=dict)  # mean squared error of the network's velocity

    def errors(self, measure: str) -> dict[int, float]:
        """Errors by bits: `output`, `relative` to the output's power, or of the network's velocity, as `velocity` or
        `gradient` has measured it.
        """
        found = self.output if measure in ("output", "relative") else self.velocity
        if not found:
            raise InputError(f"the error of {self.name} by {measure} was not measured.", "Measure it.")
        if measure == "relative":
            return {bits: error / self.power if self.power else 0.0 for bits, error in found.items()}
        return found


MEASURES = ("output", "relative", "velocity", "gradient")


def groups(model: nn.Module, names: Sequence[str], memory: int = MEMORY) -> list[list[str]]:
    """Layers whose moments fit into `memory` bytes together; one that does not fit at all is alone."""
    made: list[list[str]] = [[]]
    used = 0
    for name in names:
        with torch.device("meta"):
            size = Moments(model.get_submodule(name)).nbytes
        if made[-1] and used + size > memory:
            made.append([])
            used = 0
        made[-1].append(name)
        used += size
    return made


@torch.no_grad()
def moments(
    model: nn.Module, names: Sequence[str], batches: Sequence[Inputs], progress: Advance = lambda done, of: None
) -> dict[str, Moments]:
    """The second moments of the inputs of layers, from one pass of every batch."""
    found = {name: Moments(model.get_submodule(name), seed) for seed, name in enumerate(names)}
    handles = [model.get_submodule(name).register_forward_pre_hook(_adder(one)) for name, one in found.items()]
    try:
        for number, batch in enumerate(batches, 1):
            model(*batch.inputs)
            progress(number, len(batches))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _adder(to: Moments) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    return lambda layer, inputs: to.add(inputs[0])


@torch.no_grad()
def measure(
    model: nn.Module,
    batches: Sequence[Inputs],
    candidates: Sequence[int] = (4, 8),
    int8: bool = True,
    weighted: bool = False,
    memory: int = MEMORY,
    progress: Advance = lambda done, of: None,
) -> list[Sensitivity]:
    """The sensitivity of every quantizable layer of a model, in its order; memory grows with `memory`, not the model.

    `weighted` clusters with the mean square of every input as importance, as `palettize` would then be asked to.
    """
    if not batches:
        raise InputError("there are no calibration inputs.", "Calibrate with at least one prompt.")
    weights = quantizable(model)
    layers = [name.removesuffix(".weight") for name in weights]
    found: list[Sensitivity] = []
    for names in groups(model, layers, memory):
        held = moments(model, names, batches)
        for name in names:
            inputs = held.pop(name)
            importance = inputs.importance() if weighted else None
            weight = weights[f"{name}.weight"]
            found.append(sensitivity_of(f"{name}.weight", weight, inputs, candidates, int8, importance))
            progress(len(found), len(layers))
    return found


def sensitivity_of(
    name: str,
    weight: Tensor,
    inputs: Moments,
    candidates: Sequence[int],
    int8: bool = True,
    importance: Tensor | None = None,
) -> Sensitivity:
    """The sensitivity of one layer, by its weight and what reaches it."""
    stored, output = weight.half().float(), {}
    for bits in candidates:
        palette = palettize(weight, bits, int8, importance, name)
        output[bits] = inputs.output_power(palette.dense() - stored)
    sizes = {bits: palette_bytes(weight.numel(), bits, int8) for bits in candidates}
    return Sensitivity(name, tuple(weight.shape), weight.numel(), inputs.output_power(stored), output, sizes)


@contextmanager
def replace_weights(model: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    """The model with other values in some weights, by name, until the block ends."""
    kept = {name: model.get_parameter(name).data for name in weights}
    try:
        for name, weight in weights.items():
            model.get_parameter(name).data = weight
        yield
    finally:
        for name, weight in kept.items():
            model.get_parameter(name).data = weight


@torch.no_grad()
def velocity_error(model: nn.Module, batches: Sequence[Batch], weights: dict[str, Tensor]) -> float:
    """Mean squared error of the velocity with other values in some weights."""
    total, count = 0.0, 0
    with replace_weights(model, weights):
        for batch in batches:
            error = (model(*batch.inputs) - batch.velocity).double().square()
            total, count = total + float(error.sum()), count + error.numel()
    return total / count


def velocity_errors(
    model: nn.Module,
    batches: Sequence[Batch],
    candidates: Sequence[int] = (4, 8),
    int8: bool = True,
    progress: Advance = lambda done, of: None,
) -> dict[str, dict[int, float]]:
    """Name to bits to error of the velocity with that layer alone quantized: a pass a layer and candidate."""
    weights = quantizable(model)
    found: dict[str, dict[int, float]] = {}
    for name, weight in weights.items():
        found[name] = {
            bits: velocity_error(model, batches, {name: palettize(weight, bits, int8, name=name).dense()})
            for bits in candidates
        }
        progress(len(found), len(weights))
    return found


def palettes(
    model: nn.Module, bits: dict[str, int], int8: bool = True, importance: dict[str, Tensor] | None = None
) -> Iterator[tuple[str, Palette]]:
    """The palette of every layer of a plan, one at a time."""
    for name, weight in quantizable(model).items():
        if name in bits:
            yield name, palettize(weight, bits[name], int8, (importance or {}).get(name), name)
