"""Graphs of PyTorch without their Python: each pass writes and compiles it anew, and hardly any is ever called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import Parameter, Signature
from typing import Any

from torch import nn
from torch.fx import Graph, GraphModule
from torch.fx.graph import _PyTreeCodeGen

WRITTEN = ("_code", "_lineno_map", "_prologue_start")  # attributes of a graph module that come with its code
KINDS = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)  # by stars
write_code = GraphModule.recompile


def postpone(module: Any) -> None:
    """Has the code of a graph module written when it is first called or read."""
    if isinstance(module._graph._codegen, _PyTreeCodeGen):
        tree = module._graph._codegen.pytree_info
        module._in_spec, module._out_spec = tree.in_spec, tree.out_spec

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        write_code(self)
        return self.forward(*args, **kwargs)

    for name in WRITTEN:
        module.__dict__.pop(name, None)
    forward.__signature__ = signature_of(module._graph)  # type: ignore[attr-defined]
    type(module).forward = forward  # every graph module is the one of a class of its own


def signature_of(graph: Graph) -> Signature:
    """What the code of a graph is called with: captures name their inputs by it."""
    if isinstance(graph._codegen, _PyTreeCodeGen):
        names = list(graph._codegen.pytree_info.orig_args)
    else:
        names = [str(node.target) for node in graph.nodes if node.op == "placeholder"]
    names = ["self", *(name for name in names if name != "self")]
    return Signature([Parameter(name.lstrip("*"), KINDS[name.count("*")]) for name in names])


def attribute(module: Any, name: str) -> Any:
    """An attribute of a graph module that is not set, its code among them."""
    if name not in WRITTEN:
        return nn.Module.__getattr__(module, name)
    write_code(module)
    return module.__dict__[name]


@contextmanager
def late_code() -> Iterator[None]:
    """Within it graph modules have their code written when it is needed."""
    GraphModule.recompile, GraphModule.__getattr__ = postpone, attribute  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        GraphModule.recompile = write_code  # type: ignore[method-assign]
        del GraphModule.__getattr__
