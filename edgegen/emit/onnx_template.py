"""One segment of a network as the dynamo exporter writes it, with the places where its weights go."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import torch
from onnx import numpy_helper

from edgegen.emit.fingerprint import fingerprinted, key
from edgegen.emit.template_error import TemplateError
from edgegen.rewrite.component import TensorSpec
from edgegen.rewrite.segments import Segment

KEPT_METADATA = "pkg.torch.onnx.name_scopes"  # the module a node comes from: ['', 'down.1', 'down.1.attn', ...]
OPSET = 23  # the first with RMSNormalization, RotaryEmbedding and Attention; ONNX Runtime 1.23 and later


@dataclass(frozen=True)
class Template:
    """An exported segment: its model, and the parameter that each initializer holds, with whether it is transposed."""

    model: onnx.ModelProto
    parameters: dict[str, tuple[str, bool]]
    specs: tuple[TensorSpec, ...]  # of the outputs


def export(program: torch.export.ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """The graph of an exported program, without what the exporter notes for its own debugging."""
    made = torch.onnx.export(
        program,
        input_names=list(inputs),
        output_names=list(outputs),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert made is not None  # only without dynamo
    model = made.model_proto
    strip_(model)
    return model


def strip_(model: onnx.ModelProto) -> None:
    """Drops stack traces with local paths, an eighth of a small file."""
    graph = model.graph
    holders = [model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer]
    for holder in holders:
        kept = [entry for entry in holder.metadata_props if entry.key == KEPT_METADATA]
        del holder.metadata_props[:]
        holder.metadata_props.extend(kept)
        holder.doc_string = ""


def scopes_of(node: onnx.NodeProto) -> list[str]:
    """The modules around a node, outermost first, and the node's name in PyTorch."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == KEPT_METADATA), "['', '']")
    return ast.literal_eval(scopes)


def module_of(node: onnx.NodeProto) -> str:
    """The dotted name of the module a node comes from."""
    return scopes_of(node)[-2]


def make_template(segment: Segment, inputs: Sequence[TensorSpec]) -> Template:
    """Exports a segment of a network with weights that no other constant has."""
    module = fingerprinted(segment.module)
    with torch.no_grad():
        program = torch.export.export(module.eval(), tuple(s.zeros() for s in inputs), strict=False)
    outputs = [f"out_{i}" for i in range(len(segment.outputs))]
    model = export(program, [f"in_{i}" for i in range(len(inputs))], outputs)
    if any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        raise TemplateError(f"{segment.name} has an operation with a graph inside.")
    shapes = [tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in model.graph.output]
    specs = tuple(TensorSpec(name, shape) for name, shape in zip(outputs, shapes, strict=True))
    return Template(model, find_parameters(model, module), specs)


def find_parameters(model: onnx.ModelProto, module: torch.nn.Module) -> dict[str, tuple[str, bool]]:
    """The parameter that each initializer holds; one that might be computed from a parameter is refused."""
    names = {key(p.numpy()): (name, False) for name, p in module.named_parameters()}
    turned = {key(p.T.numpy()): (name, True) for name, p in module.named_parameters() if p.ndim == 2}
    known = {key(buffer.numpy()) for buffer in module.buffers()}
    found = {}
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind != "f" or key(values) in known:
            continue
        if (held := names.get(key(values)) or turned.get(key(values))) is not None:
            found[tensor.name] = held
        elif values.size > 1 and (values != values.flat[0]).any():
            raise TemplateError(f"the constant {tensor.name} of {values.shape} is computed from parameters.")
    lacking = {name for name, _ in module.named_parameters()} - {name for name, _ in found.values()}
    if lacking:
        raise TemplateError(f"no constant holds {sorted(lacking)[0]}, nor {len(lacking) - 1} others.")
    return found
