"""ONNX: fp32, static shapes, through the dynamo exporter."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import onnx

from edgegen.capture.deploy import Deployed
from edgegen.emit.lean import lean_capture
from edgegen.emit.onnx_attention import in_blocks_
from edgegen.emit.onnx_stamp import Beside, stamped
from edgegen.emit.onnx_template import export, module_of
from edgegen.emit.palette_onnx import ACTIVATION_OPTIONS, OPTIONS_KEY, check, compress_
from edgegen.emit.program import exported
from edgegen.files import data_beside
from edgegen.quantize.stored import StoredWeights
from edgegen.quiet import quiet
from edgegen.rewrite.component import Component
from edgegen.rewrite.segments import structure

LARGEST = 2**31 - 2**24  # bytes of weights that a protobuf holds, less what a graph takes
REPEATS = 2  # places a distinct segment, from which a graph is stamped


def write(component: Component, path: Path, weights: StoredWeights | None = None, activations: str = "float32") -> None:
    """Exports a component to an .onnx file that passes the checker; weights and nodes keep their module's name. More
    than 2 GB of weights go to a file beside it.

    `weights` are stored as they were quantized (palette_onnx.py). ONNX Runtime multiplies those with activations of
    int8 unless a session option says otherwise: the file's metadata holds the options for `activations`.
    """
    check(weights or {})
    size = sum(parameter.nbytes for parameter in component.module.parameters())
    beside = Beside(data_beside(path)) if component.segments and size > LARGEST and not weights else None
    with quiet(), lean_capture(), beside.file if beside else nullcontext():
        model = stamped(component, beside) if beside else stamped(component) if pays(component) else whole(component)
    if isinstance(component.module, Deployed):  # foreign networks; how ours hold attention is measured on its own
        in_blocks_(model)
    if weights:
        compress_(model, weights)
        model.metadata_props.add(key=OPTIONS_KEY, value=json.dumps(ACTIVATION_OPTIONS[activations]))
    if not beside and inside(model) > LARGEST:
        put_beside_(model, data_beside(path))
    onnx.save(model, str(path))
    onnx.checker.check_model(str(path), full_check=True)


def inside(model: onnx.ModelProto) -> int:
    """Bytes of the weights that a graph's own file would hold."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def put_beside_(model: onnx.ModelProto, path: Path) -> None:
    """Moves the weights of a graph to a file beside it."""
    beside = Beside(path)
    with beside.file:
        for tensor in model.graph.initializer:
            beside.take_(tensor)


def pays(component: Component) -> bool:
    """Whether stamping costs less: exporting a part on its own takes about as long as a layer of the whole."""
    kinds = {structure(segment.module) for segment in component.segments}
    return len(component.segments) >= REPEATS * len(kinds) > 0


def whole(component: Component) -> onnx.ModelProto:
    """The model of a component, exported in one piece."""
    inputs, outputs = ([s.name for s in specs] for specs in (component.inputs, component.outputs))
    model = export(exported(component), inputs, outputs)
    name_weights_(model, {name for name, _ in component.module.named_parameters()})
    return model


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
