"""The exported program of a network in segments: each distinct one is exported and prepared once, and stands in the
whole program at every place with the weights of that place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.utils import _pytree as pytree

from edgegen.emit.program import exported
from edgegen.rewrite.component import Component, TensorSpec
from edgegen.rewrite.segments import Segment, structure

Prepare = Callable[[ExportedProgram], ExportedProgram]


def stamped(component: Component, prepare: Prepare) -> ExportedProgram:
    """The program of a component in segments after `prepare`, which may change operations and types of floats."""
    stamp, templates = Stamp(component.inputs), dict[tuple, ExportedProgram]()
    for segment in component.segments:
        inputs = tuple(stamp.spec(name) for name in segment.inputs)
        kind = structure(segment.module), tuple(spec.shape for spec in inputs)
        if kind not in templates:
            part = Component(segment.name, segment.module, inputs, (), component.form)
            templates[kind] = prepare(exported(part))
        stamp.add_(segment, templates[kind])
    return stamp.program([spec.name for spec in component.outputs])


def described(value: Any) -> Any:
    """Shape and type of a value: templates have a fake mode each, of which a program may not have two."""
    return torch.empty(value.shape, dtype=value.dtype, device="meta") if isinstance(value, Tensor) else value


class Stamp:
    """A program that grows by segments. `values` gives the node that each value of the network is."""

    def __init__(self, inputs: Sequence[TensorSpec]):
        self.graph = fx.Graph()
        self.inputs: list[InputSpec] = []
        self.last: fx.Node | None = None  # input of the program
        self.state: dict[str, Tensor] = {}
        self.held: dict[tuple[int, str], fx.Node] = {}  # constants of a template, by its id and their names
        self.values = {s.name: self.input_(InputKind.USER_INPUT, s.name, s.zeros()) for s in inputs}

    def spec(self, name: str) -> TensorSpec:
        """A value as the network has it: floats are float32 there."""
        value = self.values[name].meta["val"]
        return TensorSpec("value", tuple(value.shape), "float32" if value.is_floating_point() else "int32")

    def input_(self, kind: InputKind, name: str, value: Tensor) -> fx.Node:
        """Adds an input of the program; they stand before its operations."""
        with self.graph.inserting_before() if self.last is None else self.graph.inserting_after(self.last):
            node = self.graph.placeholder(name.replace(".", "_"))
        node.target, node.meta["val"], self.last = node.name, described(value), node
        target, persistent = (None if kind is InputKind.USER_INPUT else name), (kind is InputKind.BUFFER) or None
        self.inputs.append(InputSpec(kind, TensorArgument(node.name), target, persistent))
        return node

    def add_(self, segment: Segment, template: ExportedProgram) -> None:
        """Appends the operations of a segment, with its weights."""
        given = (self.values[name] for name in segment.inputs)
        specs = {spec.arg.name: spec for spec in template.graph_signature.input_specs}
        nodes: dict[fx.Node, fx.Node] = {}
        for node in template.graph.nodes:
            if node.op != "placeholder":
                continue
            if specs[node.name].kind is InputKind.USER_INPUT:
                nodes[node] = next(given)
                nodes[node].meta["val"] = described(node.meta["val"])  # of the type that `prepare` gave it
            else:
                nodes[node] = self.constant_(segment, template, specs[node.name], node.meta["val"])
        for node in template.graph.nodes:
            if node.op not in ("placeholder", "output"):
                nodes[node] = self.graph.node_copy(node, nodes.__getitem__)
                nodes[node].meta["val"] = pytree.tree_map(described, node.meta["val"])
        (made,) = template.graph.output_node().args
        self.values |= {name: nodes[node] for name, node in zip(segment.outputs, made, strict=True)}

    def constant_(self, segment: Segment, template: ExportedProgram, spec: InputSpec, like: Tensor) -> fx.Node:
        """A parameter of this segment under its full name, or what is the same at all places of a template."""
        assert spec.target is not None
        if spec.kind is InputKind.PARAMETER:
            value = segment.module.get_parameter(spec.target).detach().to(like.dtype)
            return self.kept_((0, segment.full(spec.target)), spec.kind, segment.full(spec.target), value, like)
        source = template.state_dict if spec.target in template.state_dict else template.constants
        name = f"{segment.name}.{spec.target}"
        return self.kept_((id(template), spec.target), InputKind.BUFFER, name, source[spec.target], like)

    def kept_(self, key: tuple[int, str], kind: InputKind, name: str, value: Tensor, like: Tensor) -> fx.Node:
        """An input that holds a constant, once for each key."""
        if key not in self.held:
            parameter = kind is InputKind.PARAMETER
            self.state[name] = torch.nn.Parameter(value, requires_grad=False) if parameter else value
            self.held[key] = self.input_(kind, name, like)
        return self.held[key]

    def program(self, outputs: Sequence[str]) -> ExportedProgram:
        """The program that returns the values of these names."""
        made = tuple(self.values[name] for name in outputs)
        self.graph.output(made)
        specs = [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(node.name), None) for node in made]
        call: Any = ModuleCallEntry("")
        signature = ExportGraphSignature(self.inputs, specs)
        return ExportedProgram(torch.nn.Module(), self.graph, signature, self.state, {}, [call], None)
