"""Reads the operations of an ONNX graph from its own file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgegen.errors import EdgegenError
from edgegen.graph.operations import Builder, Operation, Program, Shape, softmax_cost
from edgegen.runtime.onnx_file import read_model


def read_onnx(path: Path) -> Program:
    """The ONNX graph, with the shapes it declares or implies."""
    graph = read_model(path).graph
    builder, shapes = Builder(), onnx_shapes(graph)
    for tensor in graph.initializer:
        builder.stored(tensor.name, *onnx_size(tuple(tensor.dims), tensor.data_type))
        shapes[tensor.name] = (tuple(tensor.dims), tensor.data_type)
    for value in graph.input:
        if value.name not in builder.tensors:
            builder.value(value.name, *onnx_size(*shapes[value.name]))
    for node in graph.node:
        if node.op_type == "Constant":
            builder.weight(node.output[0], 0, 0)
            continue
        outputs = tuple(name for name in node.output if name)
        missing = [name for name in outputs if name not in shapes]
        if missing:
            raise EdgegenError(f"{path}: the shape of {missing[0]} is not static.", "Export with static shapes.")
        sizes = {name: onnx_size(*shapes[name]) for name in outputs}
        inputs = tuple(name for name in node.input if name)
        builder.add(Operation(node.op_type, inputs, outputs, *onnx_cost(node, shapes)), sizes)
    return builder.program(tuple(v.name for v in graph.input), tuple(v.name for v in graph.output))


def onnx_shapes(graph: Any) -> dict[str, tuple[Shape, int]]:
    """Shape and element type of every value that has a static one."""
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if all(dimension.HasField("dim_value") for dimension in kind.shape.dim):
            found[value.name] = (tuple(dimension.dim_value for dimension in kind.shape.dim), kind.elem_type)
    return found


def onnx_size(shape: Shape, data_type: int) -> tuple[int, int]:
    """Elements and bytes of a value."""
    from onnx import TensorProto, helper

    count = math.prod(shape)
    bits = (
        4
        if data_type in (TensorProto.INT4, TensorProto.UINT4)
        else (8 * helper.tensor_dtype_to_np_dtype(data_type).itemsize)
    )
    return count, -(-count * bits // 8)


def onnx_cost(node: Any, shapes: Mapping[str, tuple[Shape, int]]) -> tuple[int, int, int]:
    """Multiply-adds, score elements and matrix of one ONNX node."""
    out = shapes[node.output[0]][0]
    attributes = {a.name: a for a in node.attribute}
    if node.op_type == "MatMul":
        return math.prod(out) * shapes[node.input[0]][0][-1], 0, 0
    if node.op_type == "Gemm":
        rows, columns = shapes[node.input[0]][0]
        transposed = "transA" in attributes and attributes["transA"].i
        return math.prod(out) * (rows if transposed else columns), 0, 0
    if node.op_type == "Conv":
        return math.prod(out) * math.prod(shapes[node.input[1]][0][1:]), 0, 0
    if node.op_type == "ConvTranspose":
        return math.prod(shapes[node.input[0]][0]) * math.prod(shapes[node.input[1]][0][1:]), 0, 0
    heads = attributes.get("q_num_heads") or attributes.get("num_heads")
    if node.op_type in ("Attention", "MultiHeadAttention") and heads is not None:
        (batch, queries, width), keys = (
            shapes[node.input[0]][0],
            shapes[node.input[1]][0][1],
        )  # (B, S, H*E), (B, M, G*E)
        matrix = queries * keys
        return batch * matrix * (width + out[-1]), batch * heads.i * matrix, matrix
    if node.op_type == "Softmax":
        return 0, *softmax_cost(out, attributes["axis"].i if "axis" in attributes else -1)
    return 0, 0, 0
