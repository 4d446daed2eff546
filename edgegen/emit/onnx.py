"""ONNX: fp32, static shapes, through the dynamo exporter."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import onnx
import torch

from edgegen.emit.palette_onnx import ACTIVATION_OPTIONS, OPTIONS_KEY, check, compress_
from edgegen.emit.program import exported
from edgegen.quantize.stored import StoredWeights
from edgegen.quiet import quiet
from edgegen.rewrite.component import Component

OPSET = 23  # the first with RMSNormalization, RotaryEmbedding and Attention; ONNX Runtime 1.23 and later
KEPT_METADATA = "pkg.torch.onnx.name_scopes"  # the module a node comes from: ['', 'down.1', 'down.1.attn', ...]


def write(component: Component, path: Path, weights: StoredWeights | None = None, activations: str = "float32") -> None:
    """Exports a component to one .onnx file that passes the checker; weights and nodes keep their module's name.

    `weights` are stored as they were quantized (palette_onnx.py). ONNX Runtime multiplies those with activations of
    int8 unless a session option says otherwise: the file's metadata holds the options for `activations`.
    """
    check(weights or {})
    with quiet():
        program = torch.onnx.export(
            exported(component),
            input_names=[s.name for s in component.inputs],
            output_names=[s.name for s in component.outputs],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # only without dynamo
    model = program.model_proto
    name_weights_(model, {name for name, _ in component.module.named_parameters()})
    strip_(model)
    if weights:
        compress_(model, weights)
        model.metadata_props.add(key=OPTIONS_KEY, value=json.dumps(ACTIVATION_OPTIONS[activations]))
    onnx.save(model, str(path))
    onnx.checker.check_model(str(path), full_check=True)


def name_weights_(model: onnx.ModelProto, names: set[str]) -> None:
    """Gives transposed projection weights, which the exporter calls `val_12`, the name of their module's weight."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in constants:
            continue
        name = f"{module_of(node)}.weight"
        if name in names and name not in constants:
            tensor = constants.pop(node.input[1])
            tensor.name = node.input[1] = name
            constants[name] = tensor


def module_of(node: onnx.NodeProto) -> str:
    """The dotted name of the module a node comes from."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == KEPT_METADATA), "['', '']")
    return ast.literal_eval(scopes)[-2]


def strip_(model: onnx.ModelProto) -> None:
    """Drops what the exporter notes for its own debugging: stack traces with local paths, an eighth of a small file."""
    graph = model.graph
    holders = [model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer]
    for holder in holders:
        kept = [entry for entry in holder.metadata_props if entry.key == KEPT_METADATA]
        del holder.metadata_props[:]
        holder.metadata_props.extend(kept)
        holder.doc_string = ""
