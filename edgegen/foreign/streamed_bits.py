"""How much each layer of a streamed network loses at each number of bits, measured while its weights are in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgegen.callbacks import Advance
from edgegen.foreign.source import Source
from edgegen.quantize.moments import Moments
from edgegen.quantize.palette import palette_bytes
from edgegen.quantize.sensitivity import Sensitivity, sensitivity_of


def measure_stored(
    source: Source,
    layers: Mapping[str, Tensor],
    candidates: Sequence[int],
    seed: int,
    advance: Advance = lambda done, of: None,
) -> list[Sensitivity]:
    """The sensitivity of the layers whose weights lie on disk, in one run of the network on the inputs of a seed.

    layers: weights by name, of which only shapes are read. Of a layer that runs several times the first is measured;
    one that does not run loses nothing.
    """
    found = {name: idle(name, weight, candidates) for name, weight in layers.items()}
    left = set(found)
    handles = []  # before those that stream, which take the weights away again
    for name in found:
        layer = source.module.get_submodule(name.removesuffix(".weight"))
        handles.append(layer.register_forward_hook(probe(name, candidates, found, left, advance)))
    try:
        with torch.no_grad(), source.running():
            source.module(**source.inputs(seed))
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())


def idle(name: str, weight: Tensor, candidates: Sequence[int]) -> Sensitivity:
    """Of a layer that has not run."""
    size = {bits: palette_bytes(weight.numel(), bits) for bits in candidates}
    return Sensitivity(name, tuple(weight.shape), weight.numel(), 0.0, dict.fromkeys(candidates, 0.0), size)


def probe(
    name: str, candidates: Sequence[int], found: dict[str, Sensitivity], left: set[str], advance: Advance
) -> Callable[[nn.Module, tuple[Tensor, ...], Any], None]:
    """A hook that measures a layer the first time it runs."""

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], made: Any) -> None:
        if name not in left:
            return
        left.discard(name)
        moments = Moments(layer, len(left))
        moments.add(inputs[0])
        found[name] = sensitivity_of(name, layer.get_parameter("weight").detach(), moments, candidates)
        advance(len(found) - len(left), len(found))

    return hook
