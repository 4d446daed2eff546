"""Weights that stay on disk while a network is recorded, run and written: one layer's in fp32 at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edgegen.quantize.palette import Palette

HELD = torch.full((1,), torch.nan)  # what a network holds in the place of such a weight, in any shape


@dataclass(frozen=True)
class Stored:
    """Weights by parameter name: where they lie in their file, and the palettes that stand for them."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    palettes: Mapping[str, Palette] = field(default_factory=dict)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __len__(self) -> int:
        return len(self.tensors)

    def value(self, name: str) -> Tensor:
        """A weight in fp32, of its palette if it has one."""
        if name in self.palettes:
            return self.palettes[name].dense()
        return self.tensors[name].float()

    def given(self) -> dict[str, Callable[[], Tensor]]:
        """What gives each weight when it is asked for."""
        return {name: partial(self.value, name) for name in self.tensors}

    def with_palettes(self, palettes: Mapping[str, Palette]) -> Stored:
        return replace(self, palettes=palettes)


@contextmanager
def streaming(module: nn.Module, stored: Stored, names: Mapping[str, str] | None = None) -> Iterator[None]:
    """Within it every layer has its stored weights while it runs, and no longer; `names` gives those of parameters in
    the whole network, where the module is a part of it.
    """
    handles = []
    for path, layer in module.named_modules():
        own = {key: f"{path}.{key}" if path else key for key, _ in layer.named_parameters(recurse=False)}
        held = {key: full for key, name in own.items() if (full := (names or {}).get(name, name)) in stored}
        if held:
            handles += [layer.register_forward_pre_hook(filling(held, stored))]
            handles += [layer.register_forward_hook(emptying(held))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def filling(held: Mapping[str, str], stored: Stored) -> Callable[[nn.Module, Any], None]:
    """A hook that puts stored weights into a layer."""

    def hook(layer: nn.Module, inputs: Any) -> None:
        for key, name in held.items():
            parameter = getattr(layer, key)
            parameter.data = stored.value(name).reshape(parameter.shape)

    return hook


def emptying(held: Mapping[str, str]) -> Callable[[nn.Module, Any, Any], None]:
    """A hook that takes them out again."""

    def hook(layer: nn.Module, inputs: Any, made: Any) -> None:
        for key in held:
            parameter = getattr(layer, key)
            parameter.data = HELD.expand(parameter.shape)

    return hook
