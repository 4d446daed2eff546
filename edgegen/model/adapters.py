"""Low-rank adapters of a width: what few-step distillation adds to a plain model, W + B A (arXiv 2106.09685).

A checkpoint holds `x.y.lora_a@width` (r, in) and `x.y.lora_b@width` (out, r) beside `x.y.weight`; alpha / r is folded
into B. The base stays as it was, for drawing with many steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.schema import Range, Size, Text


@dataclass(frozen=True)
class AdapterConfig:
    """Which layers have adapters, of what rank, and for which widths."""

    rank: Annotated[int, Range(1, 4096)]
    targets: Annotated[tuple[Text, ...], Size(1, 256)]  # ends of layer names: attn.q
    widths: Annotated[tuple[float, ...], Size(1, 16)]

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        object.__setattr__(self, "widths", tuple(self.widths))
        if self.rank < 1:
            raise InputError(f"rank {self.rank} of the adapters must be at least 1.")


def target_layers(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """Names of the linear layers that end in one of the targets; a target that no layer ends in is an error."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for target in targets:
        if not any(ends_in(name, target) for name in linear):
            ends = sorted({".".join(name.split(".")[-2:]) for name in linear})
            raise InputError(
                f"no linear layer ends in the adapter target {target!r}.", f"Layers end in {', '.join(ends)}."
            )
    return [name for name in linear if any(ends_in(name, target) for target in targets)]


def ends_in(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def adapter_names(layer: str, width: float) -> tuple[str, str]:
    """The names of a layer's two factors in a checkpoint."""
    return f"{layer}.lora_a@{width}", f"{layer}.lora_b@{width}"


def adapter_shapes(model: nn.Module, targets: Sequence[str], rank: int, width: float) -> dict[str, tuple[int, ...]]:
    """Name to shape of every factor of the plain model of a width."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in target_layers(model, targets):
        linear = model.get_submodule(layer)
        assert isinstance(linear, nn.Linear)
        a, b = adapter_names(layer, width)
        shapes |= {a: (rank, linear.in_features), b: (linear.out_features, rank)}
    return shapes


def merge_adapters_(weights: dict[str, Tensor], state: Mapping[str, Tensor], width: float) -> None:
    """Adds B A to each weight of a plain model whose layer has factors in the checkpoint's state."""
    for name in list(weights):
        a, b = adapter_names(name.removesuffix(".weight"), width)
        if a in state:
            weights[name] = weights[name] + state[b] @ state[a]


def without_adapters(names: Iterable[str]) -> list[str]:
    """The names of a checkpoint's state that are not adapters'."""
    return [name for name in names if ".lora_a@" not in name and ".lora_b@" not in name]
