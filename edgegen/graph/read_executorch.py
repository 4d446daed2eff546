"""Reads the operations of an ExecuTorch program, and of the XNNPACK graphs inside it, from its own file."""

from __future__ import annotations

import json
import math
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgegen.errors import EdgegenError
from edgegen.graph.operations import Builder, Operation, Program, Shape, softmax_cost

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


def read_executorch(path: Path) -> Program:
    """The XNNPACK graphs of a program in order; operations outside them have no products and count as dispatches."""
    file, schema = read_program(path)
    program, reader = file.program, XnnpackReader()
    for plan in program.execution_plan:
        reader.store_outside(plan, schema)
        for at, instruction in enumerate(i for chain in plan.chains for i in chain.instructions):
            call = instruction.instr_args
            if isinstance(call, schema.KernelCall):
                reader.add_outside(plan.operators[call.op_index].name.removeprefix("aten::"))
            elif isinstance(call, schema.DelegateCall):
                index = plan.delegates[call.delegate_index].processed.index
                reader.add_graph(xnnpack_graph(program.backend_delegate_data[index].data), f"{at}.")
    return reader.builder.program(reader.inputs, reader.outputs, reader.delegated)


class XnnpackReader:
    """Collects the graphs of a program, each under a prefix of its own; flatc leaves out the id 0."""

    def __init__(self) -> None:
        self.builder = Builder()
        self.inputs: tuple[str, ...] = ()
        self.outputs: tuple[str, ...] = ()
        self.delegated = 0
        self.keys: set[str] = set()  # of weights seen: one that several graphs share is stored once

    def store_outside(self, plan: Any, schema: Any) -> None:
        """Counts the constants that operations outside XNNPACK read."""
        for value in plan.values:
            tensor = value.val
            if isinstance(tensor, schema.Tensor) and (tensor.data_buffer_idx > 0 or is_external(tensor)):
                self.builder.parameters += math.prod(tensor.sizes)

    def add_outside(self, kind: str) -> None:
        """An operation that XNNPACK did not take."""
        self.builder.counts[kind] += 1
        self.builder.operations.append(Operation(kind, (), ()))

    def add_graph(self, graph: Mapping[str, Any], prefix: str) -> None:
        """The values and nodes of one XNNPACK graph."""
        shapes = {}
        constants = graph.get("constant_data", [])
        for entry in graph["xvalues"]:
            value = entry["xvalue_union"]
            value = value.get("tensor_value", value)
            identifier, shapes[value.get("id_out", 0)] = value.get("id_out", 0), tuple(value.get("dims", ()))
            self.add_value(value, f"{prefix}{identifier}", constants)
        for entry in graph["xnodes"]:
            self.add_node(entry["xnode_union_type"].removeprefix("_"), entry["xnode_union"], shapes, prefix)
        self.inputs += tuple(f"{prefix}{i}" for i in graph["input_ids"])
        self.outputs += tuple(f"{prefix}{i}" for i in graph["output_ids"])

    def add_value(self, value: Mapping[str, Any], name: str, constants: Sequence[Mapping[str, Any]]) -> None:
        """A weight, or what is computed."""
        size = xnn_size(tuple(value.get("dims", ())), value.get("datatype", "xnn_datatype_fp32"))
        index = value.get("constant_buffer_idx")
        if not index:
            return self.builder.value(name, *size)
        key = constants[index].get("named_key", "") if index < len(constants) else ""
        add = self.builder.weight if key in self.keys else self.builder.stored
        self.keys |= {key} - {""}
        return add(name, *size)

    def add_node(self, kind: str, node: Mapping[str, Any], shapes: Mapping[int, Shape], prefix: str) -> None:
        """One operation inside XNNPACK."""
        made = f"{prefix}{node.get('output_id', 0)}"
        used = tuple(f"{prefix}{i}" for i in xnn_inputs(kind, node))
        tensor = self.builder.tensors[made]
        operation = Operation(kind, used, (made,), *xnn_cost(kind, node, shapes))
        self.builder.add(operation, {made: (tensor.elements, tensor.bytes)})
        self.delegated += 1


def is_external(tensor: Any) -> bool:
    """Whether a tensor's numbers lie in the program's named data."""
    info = tensor.extra_tensor_info
    return bool(info and info.fully_qualified_name and "EXTERNAL" in str(info.location))


def xnn_size(shape: Shape, datatype: str) -> tuple[int, int]:
    """Elements and bytes of a value."""
    count = math.prod(shape)
    return count, -(-count * XNN_BITS.get(datatype.removeprefix("xnn_datatype_"), 32) // 8)


def xnn_inputs(kind: str, node: Mapping[str, Any]) -> list[int]:
    """The ids a node reads."""
    keys: tuple[str, ...]
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


def read_program(path: Path) -> tuple[Any, Any]:
    """A .pte file decoded, and the module of its types."""
    from executorch.exir import schema
    from executorch.exir._serialize._program import deserialize_pte_binary

    return deserialize_pte_binary(path.read_bytes()), schema


def xnnpack_graph(payload: bytes) -> dict[str, Any]:
    """One XNNPACK graph, decoded with the schema and the flatc that ExecuTorch installs."""
    import executorch
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader

    root = Path(executorch.__path__[0])
    header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
    graph = payload[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size]
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "graph.bin"
        binary.write_bytes(graph)
        schema = root / "backends/xnnpack/serialization/schema.fbs"
        command = [
            str(root / "data/bin/flatc"),
            "--json",
            "--strict-json",
            "--raw-binary",
            "-o",
            folder,
            str(schema),
            "--",
            str(binary),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise EdgegenError(f"flatc cannot read an XNNPACK graph: {done.stderr.strip()[:200]}.")
        text = (Path(folder) / "graph.json").read_text()
    return json.loads(re.sub(r": (-?inf|nan)\b", ": null", text))  # flatc writes infinities, which JSON has not
