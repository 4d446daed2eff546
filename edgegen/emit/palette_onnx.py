"""Quantized weights in an ONNX graph: packed indices and a small table, unfolded by the runtime when it loads.

A palette becomes `uint4 indices -> Cast -> Gather(int8 table) -> Reshape -> DequantizeLinear`, with a Transpose where
the graph multiplies from the left. ONNX Runtime 1.26 and later folds all but the last to int8 and fuses it with the
MatMul to MatMulNBits of 8 bits; before a Conv the DequantizeLinear stays.
Tables of 1 and 2 bits hold the 4 or 2 weights of an index side by side: nothing is packed in fewer bits than 4.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgegen.errors import EdgegenError, InputError
from edgegen.quantize.integers import IntegerWeight
from edgegen.quantize.palette import Palette
from edgegen.quantize.stored import StoredWeight, StoredWeights

INDEX_BITS = 4
BITS = (1, 2, 4, 8)
NBITS_BLOCK = 32  # inputs that share a scale in the MatMulNBits that ONNX Runtime makes of one scale a tensor
ACCURACY_LEVEL = "session.qdq_matmulnbits_accuracy_level"
ACTIVATION_OPTIONS = {"float32": {ACCURACY_LEVEL: "1"}, "int8": {ACCURACY_LEVEL: "4"}}
OPTIONS_KEY = "edgegen.session_options"  # metadata of the file: JSON of the session options it was verified with


def check(weights: StoredWeights) -> None:
    """Refuses what ONNX has no packed form for."""
    for name, weight in weights.items():
        if not isinstance(weight, Palette):
            continue
        if weight.bits not in BITS:
            raise InputError(
                f"{name} has a palette of {weight.bits} bits; ONNX packs {', '.join(map(str, BITS))}.",
                "Quantize with other --candidates, or leave onnx out with --backend.",
            )
        if weight.scale is None:
            raise InputError(
                f"{name} has a palette of float16 values; ONNX Runtime unfolds those to float32.",
                "Quantize with int8 palettes.",
            )


def compress_(model: onnx.ModelProto, weights: StoredWeights) -> None:
    """Replaces initializers of a graph by their stored form, in place; one that is not there is an error."""
    check(weights)
    graph = model.graph
    split_gemms_(graph, weights)
    dense = {tensor.name: tensor for tensor in graph.initializer}
    lacking = [name for name in weights if name not in dense]
    if lacking:
        raise EdgegenError(
            f"the ONNX graph has no weight {lacking[0]}, nor {len(lacking) - 1} others.",
            "Another version of the exporter may have renamed weights.",
        )
    nodes: list[onnx.NodeProto] = []
    scales = Counter(weight.scale for weight in weights.values() if isinstance(weight, Palette))
    for name, weight in weights.items():
        transposed = check_values(name, numpy_helper.to_array(dense[name]), weight)
        graph.initializer.remove(dense[name])
        shared = isinstance(weight, Palette) and scales[weight.scale] > 1
        made, constants = unfolding(name, weight, tuple(dense[name].dims), transposed, shared)
        nodes += made
        graph.initializer.extend(constants)
    kept = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *kept])  # what unfolds a weight comes before what uses it


def split_gemms_(graph: onnx.GraphProto, names: Iterable[str]) -> None:
    """Writes `Gemm` with one of these weights as `MatMul -> Add`, in place: ONNX Runtime fuses no other with a
    DequantizeLinear. The weight is transposed with it.
    """
    dense = {tensor.name: tensor for tensor in graph.initializer if tensor.name in set(names)}
    kept, known = list(graph.node), [value for value in graph.value_info if value.name not in dense]
    del graph.node[:], graph.value_info[:]
    graph.value_info.extend(known)
    for made in kept:
        if made.op_type == "Gemm" and made.input[1] in dense:
            turned = numpy_helper.to_array(dense[made.input[1]]).T
            dense[made.input[1]].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(turned), made.input[1]))
            graph.node.extend(product_and_sum(made))
        else:
            graph.node.append(made)


def product_and_sum(gemm: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A Gemm of a transposed weight and maybe a bias, as MatMul and Add of the same module."""
    output = gemm.output[0]
    product = f"{output}.product" if len(gemm.input) > 2 else output
    nodes = [helper.make_node("MatMul", gemm.input[:2], [product], name=gemm.name)]
    if len(gemm.input) > 2:
        nodes.append(helper.make_node("Add", [product, gemm.input[2]], [output], name=f"{gemm.name}.bias"))
    for made in nodes:
        made.metadata_props.extend(gemm.metadata_props)
    return nodes


def check_values(name: str, dense: np.ndarray, weight: StoredWeight) -> bool:
    """Whether the graph holds a weight transposed; other values than the stored weight's are an error."""
    expected = weight.dense().numpy()
    if dense.size == expected.size and np.array_equal(dense.reshape(expected.shape), expected):
        return False
    if expected.ndim == 2 and dense.shape == expected.shape[::-1] and np.array_equal(dense, expected.T):
        return True
    raise EdgegenError(f"the ONNX initializer {name} is not the quantized weight.", "This is a bug of edgegen.")


Unfolding = tuple[list[onnx.NodeProto], list[TensorProto]]


def unfolding(
    name: str, weight: StoredWeight, shape: tuple[int, ...], transposed: bool, shared: bool = False
) -> Unfolding:
    """The nodes and constants that give a weight of `shape` under its name.

    A scale that other weights have too (`shared`) is written once an output: ONNX Runtime makes one constant of equal
    single numbers, and fuses no product whose scale has another reader.
    """
    stored = shape[::-1] if transposed else shape
    if isinstance(weight, IntegerWeight):
        return integers(name, weight, shape, transposed)
    nodes: list[onnx.NodeProto] = []
    if weight.bits == 8:
        values = weight.values.numpy()[weight.unpack_indices().numpy()].reshape(stored)
        constants, last = [numpy_helper.from_array(values, f"{name}.values")], f"{name}.values"
    else:
        nodes, constants, last = lookup(name, weight, stored)
    scale = np.full(weight.shape[0], weight.scale, np.float32) if shared else np.array(weight.scale, np.float32)
    constants.append(numpy_helper.from_array(scale, f"{name}.scale"))
    if transposed:
        nodes.append(node("Transpose", [last], f"{name}.transposed", perm=[1, 0]))
        last = f"{name}.transposed"
    axis = {"axis": int(transposed)} if shared else {}  # of the outputs
    nodes.append(node("DequantizeLinear", [last, f"{name}.scale"], name, **axis))
    return nodes, constants


def lookup(name: str, palette: Palette, shape: tuple[int, ...]) -> tuple[list[onnx.NodeProto], list[TensorProto], str]:
    """Packed 4-bit indices into a table whose rows hold the weights of one index; returns the last node's output."""
    per = INDEX_BITS // palette.bits
    count = 2 * palette.indices.numel()  # of 4-bit indices, the last of which may be filling
    table = rows(palette.values.numpy(), palette.bits, per)
    constants = [
        helper.make_tensor(f"{name}.indices", TensorProto.UINT4, [count], palette.indices.numpy().tobytes(), raw=True),
        numpy_helper.from_array(table, f"{name}.palette"),
        numpy_helper.from_array(np.array(shape), f"{name}.shape"),
    ]
    nodes = [
        node("Cast", [f"{name}.indices"], f"{name}.positions", to=TensorProto.INT32),
        node("Gather", [f"{name}.palette", f"{name}.positions"], f"{name}.looked_up", axis=0),
    ]
    last = f"{name}.looked_up"
    if count * per != np.prod(shape):
        nodes += [
            node("Reshape", [last, f"{name}.flat"], f"{name}.in_line"),
            node("Slice", [f"{name}.in_line", f"{name}.start", f"{name}.end"], f"{name}.cut"),
        ]
        constants += [
            numpy_helper.from_array(np.array([value]), f"{name}.{key}")
            for key, value in (("flat", -1), ("start", 0), ("end", int(np.prod(shape))))
        ]
        last = f"{name}.cut"
    nodes.append(node("Reshape", [last, f"{name}.shape"], f"{name}.shaped"))
    return nodes, constants, f"{name}.shaped"


def rows(values: np.ndarray, bits: int, per: int) -> np.ndarray:
    """The table (16,) of 4-bit indices, or (16, per) where an index stands for `per` weights."""
    index = np.arange(2**INDEX_BITS)[:, None] >> (np.arange(per) * bits) & (2**bits - 1)
    return values[index] if per > 1 else values[index[:, 0]]


def integers(name: str, weight: IntegerWeight, shape: tuple[int, ...], transposed: bool) -> Unfolding:
    """Integers as they are; in the graph's orientation, since scales have an axis."""
    values, scales = weight.values.numpy(), weight.scales.float().numpy()  # (out, in...), (out, groups)
    if transposed:
        values, scales = values.T, scales.T
    grouped = weight.scales.shape[1] > 1
    axis = int(transposed != grouped)  # of the outputs; of a group, the inputs
    block = {"block_size": weight.shape[1] // weight.scales.shape[1]} if grouped else {}
    constants = [
        integer_tensor(f"{name}.values", values, weight.bits),
        numpy_helper.from_array(np.ascontiguousarray(scales if grouped else scales.reshape(-1)), f"{name}.scales"),
    ]
    if transposed or shape == weight.shape:
        return [node("DequantizeLinear", [f"{name}.values", f"{name}.scales"], name, axis=axis, **block)], constants
    constants.append(numpy_helper.from_array(np.array(shape), f"{name}.shape"))
    return [
        node("DequantizeLinear", [f"{name}.values", f"{name}.scales"], f"{name}.flat", axis=axis, **block),
        node("Reshape", [f"{name}.flat", f"{name}.shape"], name),
    ], constants


def integer_tensor(name: str, values: np.ndarray, bits: int) -> TensorProto:
    """An int8 tensor, or an int4 one packed two to a byte."""
    if bits == 8:
        return numpy_helper.from_array(np.ascontiguousarray(values), name)
    flat = np.pad(values.reshape(-1), (0, values.size % 2)).view(np.uint8) & 15
    packed = (flat[0::2] | flat[1::2] << 4).astype(np.uint8)
    return helper.make_tensor(name, TensorProto.INT4, values.shape, packed.tobytes(), raw=True)


def node(kind: str, inputs: Iterable[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), [output], name=f"{output}.{kind}", **attributes)


def resident_bytes(path: Path) -> int:
    """Bytes of the weights as ONNX Runtime holds them: those of the file, but for quantized ones.

    These unfold to int8, before a MatMul or Gemm in blocks of 32 inputs with a float32 scale each. int4 stays int4.
    """
    graph = onnx.load(str(path)).graph
    dense = {tensor.name: tensor for tensor in graph.initializer}
    unfolds = {output: made for made in graph.node for output in made.output}
    total, folded = 0, set()
    for made in graph.node:
        if made.op_type == "DequantizeLinear":
            sources = ancestors(made, unfolds, dense)
            folded |= sources
            total += unfolded_bytes(made, graph, dense, sources)
    if not folded:
        return path.stat().st_size
    return total + sum(tensor_bytes(tensor) for name, tensor in dense.items() if name not in folded)


def ancestors(made: onnx.NodeProto, unfolds: dict[str, onnx.NodeProto], dense: dict[str, TensorProto]) -> set[str]:
    """The constants that a node is computed from."""
    found: set[str] = set()
    for name in made.input:
        if name in dense:
            found.add(name)
        elif name in unfolds:
            found |= ancestors(unfolds[name], unfolds, dense)
    return found


def unfolded_bytes(
    made: onnx.NodeProto, graph: onnx.GraphProto, dense: dict[str, TensorProto], sources: set[str]
) -> int:
    """Bytes of one quantized weight once the runtime has unfolded it."""
    name = made.output[0].removesuffix(".flat")
    users = {user.op_type for user in graph.node if name in user.input}
    values, scales = dense.get(f"{name}.values"), dense.get(f"{name}.scales")
    shape = values.dims if values is not None else numpy_helper.to_array(dense[f"{name}.shape"]).tolist()
    bits = 4 if values is not None and values.data_type == TensorProto.INT4 else 8
    count = math.prod(shape)
    if not users & {"MatMul", "Gemm"}:
        return count * bits // 8 + (4 if scales is None else tensor_bytes(scales))
    group = next((attribute.i for attribute in made.attribute if attribute.name == "block_size"), 0) or NBITS_BLOCK
    inputs = shape[0] if scales is not None and made.input[0] == f"{name}.values" else shape[-1]
    blocks = count // inputs * -(-inputs // group)
    return blocks * (group * bits // 8 + 4)


def tensor_bytes(tensor: TensorProto) -> int:
    """Bytes of a stored tensor."""
    return len(tensor.raw_data) if tensor.raw_data else numpy_helper.to_array(tensor).nbytes
