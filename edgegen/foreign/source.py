"""What a foreign network is to an export: the module in fp32, example inputs, and fresh inputs to judge with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgegen.foreign.streamed import Stored, streaming
from edgegen.quantize.palette import Palette

Arguments = Mapping[str, Any]
Fresh = Callable[[int], Arguments]


@dataclass(frozen=True)
class Source:
    """One network: `fresh` gives other inputs of the same shapes for a seed; inputs in `constant` become part of it."""

    name: str  # of the component
    module: nn.Module
    arguments: Arguments
    origin: dict[str, Any]  # kind, name
    constant: tuple[str, ...] = ()
    fresh: Fresh | None = None
    details: dict[str, Any] = field(default_factory=dict)  # of the family, for the manifest
    palettes: Mapping[str, Palette] = field(default_factory=dict)  # that its weights are made of, by parameter name
    stored: Stored = field(default_factory=Stored)  # weights that are not in memory

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.module.parameters())

    def running(self) -> AbstractContextManager[None]:
        """Within it the module can be run, whether or not its weights are in memory."""
        return streaming(self.module, self.stored)

    def inputs(self, seed: int) -> Arguments:
        """Inputs to judge with."""
        if self.fresh is not None:
            return self.fresh(seed)
        return varied(self.arguments, seed, self.constant)


def varied(arguments: Arguments, seed: int, constant: tuple[str, ...] = ()) -> Arguments:
    """Arguments with other values of the same kind: floats by their mean and spread, masks cut at another length,
    other integers within their range.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    made = {name: value for name, value in arguments.items() if name in constant}
    for name, value in arguments.items():
        if name not in constant:
            made[name] = pytree.tree_map(lambda leaf: other(leaf, generator), value)
    return {name: made[name] for name in arguments}


def other(leaf: Any, generator: torch.Generator) -> Any:
    """Another tensor like one; what is no tensor stays."""
    if not isinstance(leaf, Tensor):
        return leaf
    if leaf.is_floating_point():
        if leaf.numel() == 1:  # a timestep, a guidance scale
            return leaf * (0.1 + 0.9 * torch.rand(1, generator=generator).to(leaf.dtype))
        noise = torch.randn(leaf.shape, generator=generator).to(leaf.dtype)
        return leaf.mean() + noise * (leaf.std() if leaf.std() > 0 else 1.0)
    if is_mask(leaf):
        kept = int(torch.randint(1, leaf.shape[-1] + 1, (1,), generator=generator))
        return (torch.arange(leaf.shape[-1]) < kept).to(leaf.dtype).expand(leaf.shape).clone()
    return torch.randint(0, max(int(leaf.max()), 1) + 1, leaf.shape, generator=generator).to(leaf.dtype)


def is_mask(leaf: Tensor) -> bool:
    """Whether integers say which tokens count: truths, or zeros and ones over several tokens."""
    return leaf.dtype is torch.bool or (leaf.numel() > 1 and bool(((leaf == 0) | (leaf == 1)).all()))
