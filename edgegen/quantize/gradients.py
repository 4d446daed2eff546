"""How much each layer costs the network's velocity, for all layers at once: one backward pass a point.

A change D of a weight moves the velocity v by J D to first order, and for a random r of variance 1 the mean of
(r' J D)^2 is |J D|^2. The gradient of r' v by every weight, which one backward pass gives, times each layer's D is
r' J D. (Hutchinson's estimate of a trace; of the Gauss-Newton matrix of the velocity's squared error.)

Squares are taken of every row of a weight apart and added up: what rounding does to one output channel has nothing to
do with what it does to another, so that the products of two rows are noise, and a layer of a thousand rows has nearly
as many samples at a point instead of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgegen.callbacks import Advance
from edgegen.errors import InputError
from edgegen.quantize.layers import quantizable
from edgegen.quantize.palette import Palette, palettize
from edgegen.quantize.trajectories import mixed_seed

Found = dict[str, dict[int, float]]  # name to bits to error


@dataclass
class Sums:
    """What the points so far add up to, of so many values of the velocity."""

    points: int = 0
    elements: int = 0
    squares: Found = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Sums:
        """The inverse of `to_dict`, also of what JSON made of it."""
        squares = {name: {int(bits): float(s) for bits, s in by.items()} for name, by in values["squares"].items()}
        return cls(int(values["points"]), int(values["elements"]), squares)


def gradient_errors(
    model: nn.Module,
    points: Sequence[tuple[Tensor, ...]],
    candidates: Sequence[int] = (4, 8),
    int8: bool = True,
    seed: int = 0,
    progress: Advance = lambda done, of: None,
    sums: Sums | None = None,
    keep: Callable[[Sums], None] = lambda sums: None,
) -> Found:
    """Name to bits to mean squared error of the velocity with that layer alone quantized, estimated to first order.

    `points` are arguments of the network, one input each: rows of one batch would share one sample. Of gradients one
    layer's are held at a time, of changes the palettes. It goes on from the `sums` of the first points, if there are
    some; `keep` is handed them after every point.
    """
    if not points:
        raise InputError("there are no points to take gradients at.", "Give at least one.")
    weights = quantizable(model)
    changes = {name: [palettize(w, bits, int8, name=name) for bits in candidates] for name, w in weights.items()}
    sums = sums or Sums()
    sums.squares = sums.squares or {name: dict.fromkeys(candidates, 0.0) for name in weights}
    with gradients_to(model, weights, _adder(weights, changes, sums.squares)):
        for number in range(sums.points, len(points)):
            velocity = model(*points[number])
            generator = torch.Generator().manual_seed(mixed_seed("probe", seed, number))
            (velocity * torch.randn(velocity.shape, generator=generator)).sum().backward()
            sums.points, sums.elements = number + 1, sums.elements + velocity.numel()
            keep(sums)
            progress(sums.points, len(points))
    return {name: {bits: total / sums.elements for bits, total in by.items()} for name, by in sums.squares.items()}


def _adder(
    weights: Mapping[str, Tensor], changes: Mapping[str, Sequence[Palette]], found: Found
) -> Callable[[str, Tensor], None]:
    """Adds to `found` what a weight's gradient says of its changes."""

    def add(name: str, gradient: Tensor) -> None:
        for palette in changes[name]:
            change = palette.dense().sub_(weights[name])
            found[name][palette.bits] += float(change.mul_(gradient).flatten(1).sum(1).square().sum())

    return add


@contextmanager
def gradients_to(model: nn.Module, names: Mapping[str, object], take: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Hands each gradient of the named parameters to `take` as it is done, and drops it; no other has one."""
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    handles = []
    for name in names:
        parameter = model.get_parameter(name).requires_grad_(True)
        handles.append(parameter.register_post_accumulate_grad_hook(_taker(name, take)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, before in required.items():
            parameter.requires_grad_(before)


def _taker(name: str, take: Callable[[str, Tensor], None]) -> Callable[[Tensor], None]:
    def hook(parameter: Tensor) -> None:
        assert parameter.grad is not None
        with torch.no_grad():
            take(name, parameter.grad)
        parameter.grad = None

    return hook
