"""A program of torch.export in float16: for converters that keep the types they are given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.fx.passes.fake_tensor_prop import FakeTensorProp


def to_half_(program: ExportedProgram) -> None:
    """Turns every float32 of a program to float16: weights, constants, inputs, casts, and what follows from them.

    The module it was exported from keeps its weights.
    """
    for held in (program.state_dict, program.constants):
        for name, value in held.items():
            if isinstance(value, Tensor) and value.dtype == torch.float32:
                held[name] = same_kind(value, value.detach().half())
    graph = program.graph_module.graph
    for node in graph.nodes:
        node.args = fx.node.map_aggregate(node.args, halved_type)
        node.kwargs = fx.node.map_aggregate(node.kwargs, halved_type)
    inputs = [halved_value(node.meta["val"]) for node in graph.nodes if node.op == "placeholder"]
    mode = next(value.fake_mode for value in inputs if isinstance(value, FakeTensor))
    FakeTensorProp(program.graph_module, mode).propagate_dont_convert_inputs(*inputs)


def same_kind(source: Tensor, value: Tensor) -> Tensor:
    """A value as parameter where its source is one."""
    return torch.nn.Parameter(value, requires_grad=False) if isinstance(source, torch.nn.Parameter) else value


def halved_type(argument: Any) -> Any:
    """The type that stands for float32; other arguments as they are."""
    return torch.float16 if argument is torch.float32 else argument


def halved_value(value: Any) -> Any:
    """A fake tensor of float32 as one of float16."""
    if isinstance(value, FakeTensor) and value.dtype == torch.float32:
        with value.fake_mode:
            return value.half()
    return value
