"""Reads the operations of a Core AI program from its own file."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

from edgegen.graph.operations import Builder, Operation, Program, softmax_cost
from edgegen.graph.read_coreml import mil_size
from edgegen.runtime.coreai_program import CoreAIOperation, CoreAIProgram

UNFOLDINGS = ("lut_to_dense", "blockwise_shift_scale")


def read_coreai(path: Path) -> Program:
    """The program, composite operations included as what they are made of; compressed weights count as stored."""
    program, builder = CoreAIProgram.load(path), Builder()
    for info in program.arguments:
        builder.value(info.name, *mil_size(info))
    for info in program.constants():
        builder.stored(info.name, *mil_size(info))
    for operation in program.operations():
        add(builder, operation)
    made = builder.program(tuple(i.name for i in program.inputs), tuple(program.returned))
    return replace(made, storage=dict(storage(program).most_common()))


def storage(program: CoreAIProgram) -> Counter[str]:
    """How many numbers of each type the constants hold."""
    held: Counter[str] = Counter()
    for info in program.constants():
        held[info.dtype] += math.prod(info.sizes())
    return held


def add(builder: Builder, operation: CoreAIOperation) -> None:
    """Adds an operation, or a weight that it unfolds: what its constants hold stands for it."""
    names = tuple(dict.fromkeys(info.name for (info,) in operation.inputs.values()))
    outputs = {info.name: mil_size(info) for info in operation.outputs}
    if operation.own_type not in UNFOLDINGS:
        builder.add(Operation(operation.own_type, names, tuple(outputs), *cost(operation)), outputs)
        return
    packed = [builder.tensors[name] for name in names]
    builder.counts[operation.own_type] += 1
    for name, (elements, _) in outputs.items():
        builder.unfolded(name, elements, sum(t.bytes for t in packed), sum(t.elements for t in packed))


def cost(operation: CoreAIOperation) -> tuple[int, int, int]:
    """Multiply-adds, score elements and matrix of one operation."""
    out = operation.outputs[0].sizes() if operation.outputs else ()
    if operation.type == "conv":
        return math.prod(out) * math.prod(operation.inputs["weight"][0].sizes()[1:]), 0, 0
    if operation.own_type.endswith("batch_matmul"):
        return math.prod(out) * operation.inputs["x"][0].sizes()[-1], 0, 0
    if operation.type == "softmax":
        axis = operation.value("axis")
        return 0, *softmax_cost(out, int(axis.reshape(-1)[0]) if axis is not None else -1)
    return 0, 0, 0
