"""Reads the operations of a Core ML program from its own file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from edgegen.graph.operations import Builder, Operation, Program, Shape, softmax_cost
from edgegen.runtime.mil_file import read_program

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


def read_coreml(path: Path) -> Program:
    """The MIL program; compressed weights count as they are stored."""
    file, builder = read_program(path), Builder()
    for info in file.inputs:
        builder.value(info.name, *mil_size(info))
    for constant in file.constants.values():
        if constant.info.dtype != "str":
            builder.stored(constant.info.name, *mil_size(constant.info))
    for record in file.operations:
        if record.type.startswith("constexpr_"):
            unfold(builder, record)
            continue
        outputs = {info.name: mil_size(info) for info in record.outputs}
        builder.add(Operation(record.type, named(record), tuple(outputs), *mil_cost(file, record)), outputs)
    return builder.program(tuple(i.name for i in file.inputs), tuple(i.name for i in file.outputs))


def named(record: Any) -> tuple[str, ...]:
    """The values an operation reads that have a name of their own."""
    return tuple(dict.fromkeys(b for bound in record.inputs.values() for b in bound if isinstance(b, str)))


def unfold(builder: Builder, record: Any) -> None:
    """Adds a compressed weight: its indices and its table are stored, what they stand for is what operations read."""
    inline = [b.info for bound in record.inputs.values() for b in bound if not isinstance(b, str)]
    sizes = [mil_size(info) for info in inline if info.dtype != "str"]
    packed = [builder.tensors[name] for name in named(record) if name in builder.tensors]
    stored_bytes = sum(size for _, size in sizes) + sum(tensor.bytes for tensor in packed)
    builder.counts[record.type] += 1
    for info in record.outputs:
        builder.unfolded(info.name, mil_size(info)[0], stored_bytes, sum(tensor.elements for tensor in packed))


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
