"""How large a network's numbers grow on its inputs, and which layers leave fp16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgegen.foreign.source import Source

FP16_MAX = 65504.0
INPUTS = 4  # that a network is run on


@dataclass(frozen=True)
class Range:
    """The largest |value| that a layer gave, over all inputs; infinite where one was not finite."""

    layer: str
    kind: str
    largest: float

    @property
    def fits(self) -> bool:
        """Whether fp16 holds it."""
        return self.largest <= FP16_MAX

    def to_dict(self) -> dict:
        finite = self.largest < float("inf")
        return {
            "layer": self.layer,
            "kind": self.kind,
            "largest": self.largest if finite else None,
            "fits_fp16": self.fits,
        }


@torch.no_grad()
def measure_ranges(source: Source, count: int = INPUTS) -> list[Range]:
    """The range of every layer without layers of its own, the largest first."""
    largest: dict[str, float] = {}
    leaves = {name: layer for name, layer in source.module.named_modules() if not any(layer.children())}
    handles = [layer.register_forward_hook(keeper(name, largest)) for name, layer in leaves.items()]
    try:
        with source.running():
            for seed in range(count):
                source.module(**source.inputs(seed))
    finally:
        for handle in handles:
            handle.remove()
    found = [Range(name, type(leaves[name]).__name__, value) for name, value in largest.items()]
    return sorted(found, key=lambda r: -r.largest)


def keeper(name: str, largest: dict[str, float]) -> Callable[[nn.Module, tuple, object], None]:
    """A hook that keeps the largest |value| of a layer's results."""

    def keep(layer: nn.Module, args: tuple, out: object) -> None:
        for leaf in pytree.tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel():
                peak = float(leaf.abs().max()) if torch.isfinite(leaf).all() else float("inf")
                largest[name] = max(largest.get(name, 0.0), peak)

    return keep
