"""Reads the operations of an artifact from its own file: a Core ML program, an ONNX graph, an ExecuTorch program."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgegen.bench.operations import Builder, Operation, Program
from edgegen.errors import EdgegenError
from edgegen.quiet import quietly

Shape = tuple[int, ...]
MIL_BITS = {
    "bool": 8,
    "float16": 16,
    "float32": 32,
    "float64": 64,
    "int4": 4,
    "uint4": 4,
    "uint1": 1,
    "uint2": 2,
    "uint3": 3,
    "uint6": 6,
}  # others say their bits at the end of the name
XNN_BITS = {
    "fp32": 32,
    "fp16": 16,
    "int32": 32,
    "qint32": 32,
    "qcint32": 32,
    "qint8": 8,
    "quint8": 8,
    "qcint8": 8,
    "qdint8": 8,
    "qduint8": 8,
    "qpint8": 8,
    "qcint4": 4,
    "qbint4": 4,
    "qcuint4": 4,
}
XNN_PAIRS = (
    "XNNAdd",
    "XNNMultiply",
    "XNNSubtract",
    "XNNDiv",
    "XNNMaximum",
    "XNNMinimum",
    "XNNBatchMatrixMultiply",
    "XNNPReLU",
    "XNNSquaredDifference",
)
XNN_LAYERS = ("XNNFullyConnected", "XNNConv2d", "XNNDepthwiseConv2d", "XNNConvTranspose2d")
ABSENT_ID = 2**32 - 1


def program_of_artifact(backend: str, path: Path) -> Program:
    """The operations of one artifact; EdgegenError for one whose sizes are not all static."""
    return quietly(lambda: READERS[backend](path))


def softmax_cost(shape: Sequence[int], axis: int) -> tuple[int, int]:
    """Score elements, and elements of one matrix: keys along `axis`, queries along the last other axis that has any."""
    keys = shape[axis]
    others = [size for i, size in enumerate(shape) if i != axis % len(shape)]
    return math.prod(shape), keys * next((size for size in reversed(others) if size > 1), 1)


# ---- Core ML --------------------------------------------------------------------------------------------------------


def read_coreml(path: Path) -> Program:
    """The MIL program; compressed weights count as they are stored."""
    from edgegen.runtime.mil_file import read_program

    file, builder = read_program(path), Builder()
    for info in file.inputs:
        builder.value(info.name, *mil_size(info))
    for constant in file.constants.values():
        if constant.info.dtype != "str":
            builder.weight(constant.info.name, *mil_size(constant.info))
    for record in file.operations:
        shapes = {info.name: info.sizes() for info in record.outputs}
        inputs = tuple(dict.fromkeys(b for bound in record.inputs.values() for b in bound if isinstance(b, str)))
        operation = Operation(record.type, inputs, tuple(shapes), *mil_cost(file, record))
        if record.type.startswith("constexpr_"):
            stored = sum(builder.tensors[name].bytes for name in inputs if name in builder.tensors)
            stored += sum(
                mil_size(b.info)[1]
                for bound in record.inputs.values()
                for b in bound
                if not isinstance(b, str) and b.info.dtype != "str"
            )
            for info in record.outputs:
                builder.weight(info.name, mil_size(info)[0], stored)
            continue
        builder.add(operation, {info.name: mil_size(info) for info in record.outputs})
    return builder.program(tuple(i.name for i in file.inputs), tuple(i.name for i in file.outputs))


def mil_size(info: Any) -> tuple[int, int]:
    """Elements and bytes of a value."""
    count = math.prod(info.sizes())
    bits = MIL_BITS.get(info.dtype) or int("".join(filter(str.isdigit, info.dtype)) or 8)
    return count, -(-count * bits // 8)


def mil_cost(file: Any, record: Any) -> tuple[int, int, int]:
    """Multiply-adds, score elements and matrix of one MIL operation."""

    def shape(bound: Any) -> Shape:
        return file.values[bound].sizes() if isinstance(bound, str) else bound.info.sizes()

    out = record.outputs[0].sizes() if record.outputs else ()
    if record.type in ("conv", "conv_transpose"):
        weight = shape(record.inputs["weight"][0])
        source = shape(record.inputs["x"][0]) if record.type == "conv_transpose" else out
        return math.prod(source) * math.prod(weight[1:]), 0, 0
    if record.type == "einsum":
        left, right = (shape(bound) for bound in record.inputs["values"])
        if len(left) == len(right) == 4:  # nchw,nwhu->nchu: the only form that stays an einsum
            return math.prod(left) * right[-1], 0, 0
    if record.type in ("matmul", "linear"):
        transposed = record.type == "matmul" and mil_flag(file, record, "transpose_x")
        return math.prod(out) * shape(record.inputs["x"][0])[-2 if transposed else -1], 0, 0
    if record.type == "softmax":
        return 0, *softmax_cost(out, mil_value(file, record, "axis", -1))
    return 0, 0, 0


def mil_flag(file: Any, record: Any, key: str) -> bool:
    return bool(mil_value(file, record, key, False))


def mil_value(file: Any, record: Any, key: str, default: Any) -> Any:
    """A constant scalar parameter."""
    from edgegen.runtime.mil_ops import Call

    value = Call(file, record).value(key, default)
    return value if value is default else value.reshape(-1)[0].item()


# ---- ONNX -----------------------------------------------------------------------------------------------------------


def read_onnx(path: Path) -> Program:
    """The ONNX graph, with the shapes it declares or implies."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(str(path))).graph
    builder, shapes = Builder(), onnx_shapes(graph)
    for tensor in graph.initializer:
        builder.weight(tensor.name, *onnx_size(tuple(tensor.dims), tensor.data_type))
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
    if node.op_type == "Attention" and "q_num_heads" in attributes:
        (batch, queries, channels), keys = out, shapes[node.input[1]][0][1]  # (B, S, H*E), (B, M, G*E)
        matrix = queries * keys
        return 2 * batch * matrix * channels, batch * attributes["q_num_heads"].i * matrix, matrix
    if node.op_type == "Softmax":
        return 0, *softmax_cost(out, attributes["axis"].i if "axis" in attributes else -1)
    return 0, 0, 0


# ---- ExecuTorch -----------------------------------------------------------------------------------------------------


def read_executorch(path: Path) -> Program:
    """The XNNPACK graphs of a program in order; operations outside them have no products and count as dispatches."""
    from edgegen.inspection import read_program, xnnpack_graph

    file, schema = read_program(path)
    program, builder = file.program, Builder()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    for plan in program.execution_plan:
        for at, instruction in enumerate(i for chain in plan.chains for i in chain.instructions):
            call = instruction.instr_args
            if isinstance(call, schema.KernelCall):
                builder.operations.append(Operation(plan.operators[call.op_index].name.removeprefix("aten::"), (), ()))
            elif isinstance(call, schema.DelegateCall):
                payload = program.backend_delegate_data[plan.delegates[call.delegate_index].processed.index].data
                graph = xnnpack_graph(payload)
                add_xnnpack(builder, graph, f"{at}.")
                inputs += tuple(f"{at}.{i}" for i in graph["input_ids"])
                outputs += tuple(f"{at}.{i}" for i in graph["output_ids"])
    return builder.program(inputs, outputs)


def add_xnnpack(builder: Builder, graph: Mapping[str, Any], prefix: str) -> None:
    """Adds the nodes of one XNNPACK graph; flatc leaves out the id 0."""
    shapes: dict[int, Shape] = {}
    for entry in graph["xvalues"]:
        value = entry["xvalue_union"]
        value = value.get("tensor_value", value)
        identifier, shape = value.get("id_out", 0), tuple(value.get("dims", ()))
        size = xnn_size(shape, value.get("datatype", "xnn_datatype_fp32"))
        shapes[identifier] = shape
        (builder.weight if value.get("constant_buffer_idx") else builder.value)(f"{prefix}{identifier}", *size)
    for entry in graph["xnodes"]:
        kind, node = entry["xnode_union_type"].removeprefix("_"), entry["xnode_union"]
        used, made = xnn_inputs(kind, node), node.get("output_id", 0)
        operation = Operation(
            kind, tuple(f"{prefix}{i}" for i in used), (f"{prefix}{made}",), *xnn_cost(kind, node, shapes)
        )
        tensor = builder.tensors[f"{prefix}{made}"]
        builder.add(operation, {f"{prefix}{made}": (tensor.elements, tensor.bytes)})


def xnn_size(shape: Shape, datatype: str) -> tuple[int, int]:
    """Elements and bytes of a value."""
    count = math.prod(shape)
    return count, -(-count * XNN_BITS.get(datatype.removeprefix("xnn_datatype_"), 32) // 8)


def xnn_inputs(kind: str, node: Mapping[str, Any]) -> list[int]:
    """The ids a node reads."""
    if kind in XNN_PAIRS:
        keys = ("input1_id", "input2_id")
    elif kind in XNN_LAYERS:
        keys = ("input1_id", "filter_id", "bias_id")
    elif kind.startswith("XNNConcatenate"):
        keys = tuple(f"input{i}_id" for i in range(1, int(kind[-1]) + 1))
    else:
        keys = ("input_id",)
    return [i for i in (node.get(key, 0) for key in keys) if i != ABSENT_ID]


def xnn_cost(kind: str, node: Mapping[str, Any], shapes: Mapping[int, Shape]) -> tuple[int, int, int]:
    """Multiply-adds, score elements and matrix of one XNNPACK node; images and filters are channels-last."""
    out = shapes[node.get("output_id", 0)]
    if kind == "XNNBatchMatrixMultiply":
        return math.prod(out) * shapes[node.get("input1_id", 0)][-1], 0, 0
    if kind in XNN_LAYERS:
        filter_shape = shapes[node.get("filter_id", 0)]
        return (
            math.prod(out)
            * (math.prod(filter_shape[1:]) if kind != "XNNDepthwiseConv2d" else math.prod(filter_shape[1:-1])),
            0,
            0,
        )
    if kind == "XNNSoftmax":
        return 0, *softmax_cost(out, -1)
    return 0, 0, 0


READERS: dict[str, Callable[[Path], Program]] = {
    "coreml": read_coreml,
    "onnx": read_onnx,
    "executorch": read_executorch,
}
