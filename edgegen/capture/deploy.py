"""From a recording to a component: traced to plain operations, simplified, and written in a back end's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

import edgegen.capture.elementwise  # noqa: F401  (enters its operations in the table)
import edgegen.capture.layers  # noqa: F401
import edgegen.capture.movement  # noqa: F401
import edgegen.capture.products  # noqa: F401
from edgegen.capture.lowering import Lowering
from edgegen.capture.passes import CASTS, Graph, aten, is_end, rms_norm, simplify
from edgegen.capture.specialize import Recording
from edgegen.capture.stills import flatten_frames
from edgegen.capture.timesteps import Sinusoids, cut_sinusoids
from edgegen.capture.values import Value, plain
from edgegen.capture.writer import Writer
from edgegen.rewrite.component import Component, Form, TensorSpec

DTYPES = {torch.bool: "float32", torch.int64: "int32", torch.int32: "int32"}


@dataclass(frozen=True)
class Traced:
    """A recording in plain operations: the rewritten graph, its constants by node, the names of its own tensors."""

    graph: Graph
    inputs: dict[str, TensorSpec]  # by node, in call order
    outputs: tuple[TensorSpec, ...]
    names: dict[int, str]
    sinusoids: tuple[Sinusoids, ...]

    def feed(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A program's inputs of the module's own: timesteps become their sinusoids, booleans numbers."""
        made = {s.name: s(values[s.source]) for s in self.sinusoids}
        kinds = {"int32": torch.int32, "float32": torch.float32}
        found = {spec.name: made.get(spec.name, values.get(spec.name)) for spec in self.inputs.values()}
        return {s.name: found[s.name].reshape(s.shape).to(kinds[s.dtype]) for s in self.inputs.values()}


def trace(recording: Recording) -> Traced:
    """torch.export, without decomposition, then the rewrites every back end shares."""
    with torch.no_grad():
        program = torch.export.export(recording.graph, recording.examples, strict=False).run_decompositions({})
    signature, constants, names = program.graph_signature, {}, {}
    lifted = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    for node, target in lifted.items():
        found = program.state_dict.get(target, program.constants.get(target))
        constants[node] = found.detach()
        if not target.startswith("constants."):
            names[id(constants[node])] = target
    graph = Graph(program.graph, constants)
    simplify(graph)
    flatten_frames(graph, names)
    own = [n for n in program.graph.nodes if n.op == "placeholder" and n.name not in lifted]
    cut = cut_sinusoids(graph, dict(zip(own, recording.names, strict=True)))
    inputs = {n.name: input_spec(name, n) for name, n in zip(recording.names, own, strict=True) if n.users}
    inputs |= {node.name: spec(made.name, node.meta["val"], apart=True) for node, made in cut}
    results = next(n for n in program.graph.nodes if n.op == "output").args[0]
    made = tuple(spec(name, node.meta["val"]) for name, node in zip(recording.outputs, results, strict=True))
    return Traced(graph, inputs, made, names, tuple(made for _, made in cut))


def input_spec(name: str, node: fx.Node) -> TensorSpec:
    """What an input is; integers that are only calculated with, such as masks, are floats."""
    found = spec(name, node.meta["val"])
    return replace(found, dtype="float32") if all(user.target in ARITHMETIC for user in node.users) else found


def spec(name: str, value: Tensor, apart: bool = False) -> TensorSpec:
    """What a tensor is; features (B, F) stand `apart` as (B, F, 1, 1), as in every network of this project."""
    shape = tuple(value.shape)
    return TensorSpec(name, (*shape, 1, 1) if apart and len(shape) == 2 else shape, DTYPES.get(value.dtype, "float32"))


ARITHMETIC = CASTS | {
    aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.rsub.Scalar, aten.unsqueeze.default, aten.div.Tensor,
}  # fmt: skip


LAST = {aten.linear.default, aten.layer_norm.default, aten.rms_norm.default, rms_norm}  # work along the last dimension


class Deployed(fx.GraphModule):
    """A network in deployable form; `moves` tells every time it moves data, `unknown` what has no layout of its own."""

    moves: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def deploy(traced: Traced, form: Form, name: str = "network") -> Component:
    """A component of a traced network in a form."""
    writer = Writer(traced.names, pictures=form.attention == "split")
    lowering = Lowering(writer, form)
    values: dict[fx.Node, Any] = {}
    for node in traced.graph.graph.nodes:
        if node.op == "output":
            data = [lowering.read(lowering.whole(values[n])) for n in node.args[0]]
            writer.graph.output(tuple(data))
        elif node.name in traced.graph.constants:
            tensor = traced.graph.constants[node.name]
            values[node] = plain(tensor, tensor.shape)
        elif node.op == "placeholder":
            if node.name in traced.inputs:
                values[node] = accepted(lowering, traced.inputs[node.name], node)
        else:
            args, kwargs = (
                fx.node.map_aggregate(a, lambda x: values[x] if isinstance(x, fx.Node) else x)
                for a in (node.args, node.kwargs)
            )
            values[node] = lowering.lower(node, args, kwargs)
    writer.graph.eliminate_dead_code(is_impure_node=is_end)
    module = Deployed(writer.root, writer.graph)
    module.moves, module.unknown = tuple(writer.moves), tuple(lowering.unknown)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return Component(name, module.eval(), tuple(traced.inputs.values()), traced.outputs, form.attention)


def accepted(lowering: Lowering, given: TensorSpec, node: fx.Node) -> Value:
    """An input; a program has no booleans among its inputs, so that those come as numbers."""
    value = plain(lowering.writer.input(given.name), given.shape)
    value = value.with_dims(value.dims[: len(node.meta["val"].shape)])
    if node.meta["val"].dtype is torch.bool:
        return Value(lowering.writer.call(torch.ne, value.data, 0), value.dims, value.axes)
    if lowering.split and len(value.dims) == 3 and any(user.target in LAST for user in node.users):
        return lowering.channels(value)  # tokens (B, L, C): moved once, whatever reads them first
    return value
