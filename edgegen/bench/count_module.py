"""Records the operations of a PyTorch module on the meta device: shapes alone, no memory, no arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgegen.errors import EdgegenError
from edgegen.graph.operations import VIEWS, Builder, Operation, Program
from edgegen.rewrite.component import Component

PRODUCTS = ("mm", "bmm", "addmm", "convolution", "_convolution")
FUSED_ATTENTION = "Attention"  # torch.onnx.ops.attention
UNDECOMPOSED = ("einsum", "linear", "matmul", "baddbmm", "addbmm")


def program_of_component(component: Component) -> Program:
    """The operations of a rewritten component; its module may be on the meta device."""
    inputs = [torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device="meta") for spec in component.inputs]
    return program_of_module(component.module.to("meta"), inputs)


def program_of_module(module: nn.Module, inputs: Sequence[Any] = (), named: Mapping[str, Any] | None = None) -> Program:
    """The operations of one forward pass of a module on the meta device."""
    recorder = Recorder(module)
    with torch.no_grad(), recorder:
        result = module(*inputs, **(named or {}))
    given = [recorder.name(tensor) for tensor in tensors_in([list(inputs), dict(named or {})])]
    return recorder.builder.program(tuple(given), tuple(recorder.name(tensor) for tensor in tensors_in(result)))


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Every tensor inside nested lists, dictionaries and model outputs."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


class Recorder(TorchDispatchMode):
    """Notes each operation; a view of a whole tensor has its name, so that a transposed weight stays a weight."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.builder = Builder()
        self._names: dict[int, str] = {}
        self._kept: list[torch.Tensor] = []  # an id may be used again once its tensor is gone
        for name, parameter in (*module.named_parameters(), *module.named_buffers()):
            self._remember(parameter, name)
            self.builder.weight(name, *size_of(parameter))

    def name(self, tensor: torch.Tensor) -> str:
        """The name of a tensor; one that no operation made is an input."""
        if id(tensor) not in self._names:
            self.builder.value(self._remember(tensor), *size_of(tensor))
        return self._names[id(tensor)]

    def _remember(self, tensor: torch.Tensor, name: str = "") -> str:
        self._kept.append(tensor)
        self._names[id(tensor)] = name or f"value_{len(self._kept)}"
        return self._names[id(tensor)]

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        given, made = tensors_in([list(args), dict(kwargs or {})]), tensors_in(result)
        kind = function.overloadpacket.__name__
        if kind in VIEWS and given:
            self._view(given[0], made)
        else:
            kept = made[:1] if kind == FUSED_ATTENTION else made  # its others, such as its scores, are for debugging
            inputs, outputs = tuple(map(self.name, given)), tuple(map(self._remember, kept))
            sizes = {name: size_of(tensor) for name, tensor in zip(outputs, kept, strict=True)}
            self.builder.add(Operation(kind, inputs, outputs, *cost(kind, args, given, made)), sizes)
        return result

    def _view(self, source: torch.Tensor, views: Sequence[torch.Tensor]) -> None:
        name = self.name(source)
        for view in views:
            if view.numel() == source.numel():
                self._remember(view, name)
                continue
            part, is_weight = self._remember(view), self.builder.tensors[name].is_weight
            (self.builder.weight if is_weight else self.builder.value)(part, *size_of(view))


def size_of(tensor: torch.Tensor) -> tuple[int, int]:
    return tensor.numel(), tensor.numel() * tensor.element_size()


def cost(
    kind: str, args: Sequence[Any], given: Sequence[torch.Tensor], made: Sequence[torch.Tensor]
) -> tuple[int, int, int]:
    """Multiply-adds, score elements, and elements of one score matrix of an operation."""
    if kind in ("mm", "bmm", "addmm"):
        return made[0].numel() * given[-1].shape[-2], 0, 0
    if kind in PRODUCTS:
        return made[0].numel() * math.prod(given[1].shape[1:]), 0, 0
    if kind in ("_softmax", "_safe_softmax"):
        keys, rows = made[0].shape[args[1]], made[0].shape[-1 if args[1] % made[0].ndim != made[0].ndim - 1 else -2]
        return 0, made[0].numel(), keys * rows
    if kind.startswith("_scaled_dot_product"):
        query, key, value = given[:3]  # (B, H, N, E), (B, G, M, E), (B, G, M, V)
        matrix = query.shape[-2] * key.shape[-2]
        scores = math.prod(query.shape[:-2]) * matrix
        return scores * (query.shape[-1] + value.shape[-1]), scores, matrix
    if kind == FUSED_ATTENTION:
        query, table = given[0], made[3]  # (B, S, H*E), (B, H, S, M)
        size = query.shape[-1] // table.shape[1]
        return 2 * table.numel() * size, table.numel(), table.shape[2] * table.shape[3]
    if kind in UNDECOMPOSED or "scaled_dot_product" in kind:
        raise EdgegenError(f"PyTorch did not decompose {kind}; its multiply-adds would not be counted.")
    return 0, 0, 0
