"""Reads an ONNX file that may come from anywhere: what edgegen never writes is refused before a runtime sees it.

Taken are plain graphs: no loops or other nested graphs, no functions, no other files, every shape static and of a size
that can be meant, and no option of a session but those edgegen sets itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgegen.errors import InputError, brief, shortened
from edgegen.files import data_beside
from edgegen.strict_json import parse_json

if TYPE_CHECKING:
    from edgegen.rewrite.component import TensorSpec

LARGEST = 2**31 - 1  # bytes of a protobuf
ELEMENTS = 2**31  # of one value
LARGE = 4096  # bytes from which on an initializer is no shape or axis: its values say nothing about shapes
DOMAINS = ("", "ai.onnx", "com.microsoft")
AGAIN = "Export the bundle again."
ATTRIBUTE_GRAPHS = (5, 10)  # AttributeProto.GRAPH, GRAPHS


def read_model(path: Path) -> Any:
    """The model (onnx.ModelProto) with the shape of every value, its large weights without their bytes; InputError for
    one that is broken or holds what edgegen never writes.
    """
    model = parse_model(path)
    check_graph(path, model)
    for tensor in (a.t for node in model.graph.node for a in node.attribute if a.HasField("t")):
        check_initializer(path, tensor)
    for tensor in model.graph.initializer:
        check_initializer(path, tensor)
        if len(tensor.raw_data) > LARGE:
            tensor.ClearField("raw_data")
    session_options(model, str(path))
    return inferred(path, model)


def parse_model(path: Path) -> Any:
    """The protobuf; files it names beside it are not looked at."""
    import onnx
    from google.protobuf.message import DecodeError

    if path.stat().st_size > LARGEST:
        raise InputError(f"{path} has {path.stat().st_size} bytes; a protobuf has {LARGEST} at most.", AGAIN)
    try:
        return onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no ONNX model: {shortened(str(error), 80)}.", AGAIN) from None


def check_graph(path: Path, model: Any) -> None:
    """Refuses functions, nested graphs, operations of strangers and sparse weights."""
    graph = model.graph
    strange = next((node.domain for node in graph.node if node.domain not in DOMAINS), None)
    nested = next((n.op_type for n in graph.node for a in n.attribute if a.type in ATTRIBUTE_GRAPHS), None)
    for found, what in (
        (len(model.functions) and "functions", "has"),
        (len(graph.sparse_initializer) and "sparse weights", "has"),
        (nested is not None and f"{brief(nested)}, a graph within the graph", "has"),
        (strange is not None and f"an operation of {brief(strange)}", "has"),
        (not graph.node and "no operation", "has"),
    ):
        if found:
            raise InputError(f"{path} {what} {found}, which edgegen does not write.", AGAIN)


def check_initializer(path: Path, tensor: Any) -> None:
    """Refuses a weight in another file, and one whose bytes are not those of its shape."""
    from onnx import TensorProto, helper

    external = tensor.data_location == TensorProto.EXTERNAL or bool(tensor.external_data)
    if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) > 8 * LARGEST:
        raise InputError(f"{path}: the weight {brief(tensor.name)} cannot be {brief(list(tensor.dims))}.", AGAIN)
    bits = 4 if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4) else 0
    try:
        bits = bits or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:
        raise InputError(f"{path}: {brief(tensor.name)} holds numbers of an unknown type.", AGAIN) from None
    expected = -(-math.prod(tensor.dims) * bits // 8)
    if external:
        check_beside(path, tensor, expected)
    if tensor.raw_data and len(tensor.raw_data) != expected:
        told = f"{len(tensor.raw_data)} bytes, its shape asks for {expected}"
        raise InputError(f"{path}: the weight {brief(tensor.name)} has {told}.", AGAIN)


def check_beside(path: Path, tensor: Any, expected: int) -> None:
    """Refuses a weight in another file than the one beside the graph, which the manifest's sha256 covers, or elsewhere
    in it than a weight of its shape can be.
    """
    told, data = {entry.key: entry.value for entry in tensor.external_data}, data_beside(path)
    if told.get("location") != data.name or not data.is_file() or tensor.raw_data:
        raise InputError(f"{path} keeps {brief(tensor.name)} in another file than {data.name}.", AGAIN)
    try:
        start, length = int(told.get("offset", "0")), int(told["length"])
    except (KeyError, ValueError):
        start, length = -1, -1
    if length != expected or not 0 <= start <= data.stat().st_size - length:
        raise InputError(f"{path}: the weight {brief(tensor.name)} is not where {data.name} has one.", AGAIN)


def session_options(model: Any, where: str = "the ONNX file") -> dict[str, str]:
    """The options a file asks to be run with: its metadata says them in JSON where weights are quantized. Others than
    edgegen sets, which could do anything, such as writing files, are an InputError.
    """
    from edgegen.emit.palette_onnx import ACTIVATION_OPTIONS, OPTIONS_KEY

    told = next((entry.value for entry in model.metadata_props if entry.key == OPTIONS_KEY), None)
    if told is None:
        return {}
    options = parse_json(told, f"{where}'s {OPTIONS_KEY}", "Do not use this bundle.")
    if options not in ACTIVATION_OPTIONS.values():
        raise InputError(f"{where} asks for {brief(options)}, which edgegen never sets.", "Do not use this bundle.")
    return options


def inferred(path: Path, model: Any) -> Any:
    """The model with the shape of every value, inferred and not only told; one that is not static is an error."""
    import onnx

    try:
        found = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as error:  # the library raises its own errors, bare ones too
        raise InputError(f"{path} has shapes that do not fit: {shortened(str(error), 80)}.", AGAIN) from None
    for name, shape in shapes(found.graph):
        if any(size < 0 for size in shape) or math.prod(shape) > ELEMENTS:
            raise InputError(f"{path}: {brief(name)} would be {brief(list(shape))}.", AGAIN)
    return found


def shapes(graph: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every value; a size that is not static counts as 1, and is refused where it matters."""
    for value in (*graph.input, *graph.value_info, *graph.output):
        yield value.name, tuple(size.dim_value or 1 for size in value.type.tensor_type.shape.dim)


def check_signature(path: Path, model: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Refuses a graph whose inputs and outputs are not those that the manifest says."""
    weights = {tensor.name for tensor in model.graph.initializer}
    given = [value for value in model.graph.input if value.name not in weights]
    for what, found, wanted in (("inputs", given, inputs), ("outputs", model.graph.output, outputs)):
        told = {value.name: signature(value) for value in found}
        expected = {spec.name: (tuple(spec.shape), spec.dtype) for spec in wanted}
        if told != expected:
            wrong = sorted(name for name in told.keys() | expected.keys() if told.get(name) != expected.get(name))
            raise InputError(f"{path}: of its {what}, {brief(wrong)} are not as the manifest says.", AGAIN)


def signature(value: Any) -> tuple[tuple[int, ...], str]:
    """Shape and numpy's name of the type of a graph's input or output."""
    from onnx import helper

    kind = value.type.tensor_type
    try:
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    except KeyError:
        dtype = str(kind.elem_type)
    return tuple(size.dim_value for size in kind.shape.dim), dtype
