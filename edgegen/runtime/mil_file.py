"""Reads the MIL program of an .mlpackage from its own files: the protobuf and the weight blobs beside it.

Nothing is computed here. Weights stay in their file (memory-mapped) until `Constant.array` is asked for them.
Format: coremltools/mlmodel/format/MIL.proto and mlmodel/src/MILBlob/Blob/StorageFormat.hpp (coremltools 9.0).
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgegen.errors import EdgegenError, InputError, brief
from edgegen.quiet import quiet
from edgegen.strict_json import read_bytes, read_json

# MIL.proto DataType -> numpy's name; the packed types have none and keep MIL's
DTYPES = {
    1: "bool", 2: "str", 10: "float16", 11: "float32", 12: "float64",
    21: "int8", 22: "int16", 23: "int32", 24: "int64", 25: "int4",
    31: "uint8", 32: "uint16", 33: "uint32", 34: "uint64",
    35: "uint4", 36: "uint2", 37: "uint1", 38: "uint6", 39: "uint3",
}  # fmt: skip
PACKED_BITS = {"int4": 4, "uint4": 4, "uint6": 6, "uint3": 3, "uint2": 2, "uint1": 1}
BLOB_SENTINEL = 0xDEADBEEF
LARGEST_SPEC = 2**31 - 1  # bytes of a protobuf
BLOB = struct.Struct("<IIQQ")  # sentinel, type, bytes, where they begin


class ProgramFileError(InputError):
    """An .mlpackage that is damaged or holds something other than an ML program."""


@dataclass(frozen=True)
class TensorInfo:
    """What the program declares about one value: `shape` has None for a size known only at run time."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str  # numpy's name, or MIL's for packed integers (uint4, int4, ...)

    def sizes(self) -> tuple[int, ...]:
        """The shape, when every size in it is known; EdgegenError otherwise."""
        known = tuple(size for size in self.shape if size is not None)
        if len(known) != len(self.shape):
            raise EdgegenError(f"'{self.name}' has shape {self.shape}, not all static.", "Export with static shapes.")
        return known


class Weights:
    """The blob files of one package, mapped on first use; a write to a returned view never reaches the file."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._files: dict[str, np.ndarray] = {}

    def read(self, file_name: str, offset: int, info: TensorInfo) -> np.ndarray:
        """The values at `offset` of `file_name`, a view of the file unless the dtype is packed."""
        start, size = self.place(file_name, offset, info)
        return decode(self._map(file_name.rsplit("/", 1)[-1])[start : start + size], info)

    def place(self, file_name: str, offset: int, info: TensorInfo) -> tuple[int, int]:
        """First byte and number of bytes of a value; ProgramFileError where they are not those of its shape."""
        data = self._map(file_name.rsplit("/", 1)[-1])
        wrong = ProgramFileError(
            f"{file_name}: no blob for {brief(info.name)} at offset {offset}.", "Export the package again."
        )
        if offset + BLOB.size > data.size:
            raise wrong
        sentinel, _, size, start = BLOB.unpack_from(data.data, offset)
        if sentinel != BLOB_SENTINEL or start + size > data.size or size < stored_bytes(info):
            raise wrong
        return start, size

    def _map(self, name: str) -> np.ndarray:
        if name not in self._files:
            path = self.folder / name
            if not path.is_file():
                raise ProgramFileError(f"{path} is missing.", "Copy the whole .mlpackage folder.")
            if not path.stat().st_size:
                raise ProgramFileError(f"{path} is empty.", "Copy the whole .mlpackage folder.")
            self._files[name] = np.asarray(np.memmap(path, dtype=np.uint8, mode="c"))
        return self._files[name]


@dataclass
class Constant:
    """A constant of the program, decoded when `array` is called."""

    info: TensorInfo
    value: Any = field(repr=False)  # MIL_pb2.Value
    weights: Weights = field(repr=False)

    def check(self) -> None:
        """ProgramFileError unless the value is there, with as many numbers as its shape asks for."""
        if self.value.WhichOneof("value") == "blobFileValue":
            blob = self.value.blobFileValue
            self.weights.place(blob.fileName, blob.offset, self.info)
            return
        tensor = self.value.immediateValue.tensor
        kind = tensor.WhichOneof("value")
        if kind in (None, "strings", "bytes"):
            return
        count = len(getattr(tensor, kind).values)
        if count != math.prod(self.info.sizes()):
            raise ProgramFileError(
                f"the constant {brief(self.info.name)} has {count} numbers, its shape is {self.info.shape}.",
                "Export the package again.",
            )

    def array(self) -> np.ndarray | str:
        """The value, of shape `info.shape`; packed integers come one per byte."""
        if self.value.WhichOneof("value") == "blobFileValue":
            blob = self.value.blobFileValue
            return self.weights.read(blob.fileName, blob.offset, self.info)
        return _immediate(self.value.immediateValue, self.info)


@dataclass(frozen=True)
class OperationRecord:
    """One operation as the file holds it; an input is the name of a value or an unnamed constant."""

    type: str
    name: str
    inputs: dict[str, tuple[str | Constant, ...]]
    outputs: tuple[TensorInfo, ...]


@dataclass(frozen=True)
class ProgramFile:
    """One function of the program: its interface, constants by name and operations in order (constants excluded)."""

    path: Path
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    constants: dict[str, Constant]
    operations: tuple[OperationRecord, ...]
    values: dict[str, TensorInfo]  # every named value, constants included


def read_program(path: str | Path, function: str = "main") -> ProgramFile:
    """The named function of the ML program in the package at `path`; InputError if there is none."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist.", "Pass the .mlpackage folder that an export wrote.")
    spec = _load_spec(path)
    if spec.WhichOneof("Type") != "mlProgram":
        raise ProgramFileError(
            f"{path} holds a {spec.WhichOneof('Type')}, not an ML program.", "Convert with convert_to='mlprogram'."
        )
    functions = spec.mlProgram.functions
    if function not in functions:
        raise InputError(f"{path} has no function '{function}'.", f"It has: {', '.join(functions)}.")
    try:
        return _read_function(path, functions[function], Weights(_weights_folder(path)))
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as problem:
        told = f"{type(problem).__name__} {problem}"
        raise ProgramFileError(f"{path} does not hold together: {told}.", "Export it again.") from problem


def import_coremltools() -> Any:
    """coremltools, imported when first needed and without its notices about versions: it takes seconds."""
    with quiet():
        import coremltools
    return coremltools


def _load_spec(path: Path) -> Any:
    """The model's protobuf. coremltools' own reader makes a package anew where its Manifest.json is broken."""
    file = _model_file(path)
    spec = import_coremltools().proto.Model_pb2.Model()
    try:
        spec.ParseFromString(read_bytes(file, "Export it again.", LARGEST_SPEC))
    except InputError as problem:
        raise ProgramFileError(problem.message, problem.remedy) from None
    except Exception as problem:  # protobuf's errors are of several kinds
        raise ProgramFileError(f"{path} is not a readable Core ML package: {problem}.", "Export it again.") from problem
    return spec


def _model_file(path: Path) -> Path:
    """Where a package's Manifest.json says that the model lies, which must be inside it."""
    if path.is_file():
        return path
    try:
        manifest = read_json(path / "Manifest.json", "Export it again.")
        file = path / "Data" / manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        if file.resolve().is_relative_to(path.resolve()):
            return file
        problem = "its model lies outside"
    except InputError as error:
        problem = error.message
    except (KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
        problem = f"{type(error).__name__} {error}"
    raise ProgramFileError(f"{path} is not a readable Core ML package: {problem}.", "Export it again.")


def _weights_folder(path: Path) -> Path:
    found = sorted(path.glob("Data/*/weights"))
    return found[0] if found else path


def _read_function(path: Path, function: Any, weights: Weights) -> ProgramFile:
    block = function.block_specializations[function.opset]
    inputs = tuple(tensor_info(value.name, value.type) for value in function.inputs)
    values = {info.name: info for info in inputs}
    constants: dict[str, Constant] = {}
    operations = []
    for proto in block.operations:
        record = _read_operation(proto, weights)
        values.update((info.name, info) for info in record.outputs)
        if record.type == "const":
            info = record.outputs[0]
            constants[info.name] = Constant(info, proto.attributes["val"], weights)
        else:
            operations.append(record)
    outputs = tuple(values[name] for name in block.outputs)
    return ProgramFile(path, inputs, outputs, constants, tuple(operations), values)


def _read_operation(proto: Any, weights: Weights) -> OperationRecord:
    outputs = tuple(tensor_info(value.name, value.type) for value in proto.outputs)
    name = _operation_name(proto) or (outputs[0].name if outputs else "")
    if len(proto.blocks):
        raise ValueError(f"{proto.type} has blocks of its own")
    if proto.type == "const":
        return OperationRecord("const", name, {}, outputs)
    inputs = {key: tuple(_bindings(key, argument, weights)) for key, argument in proto.inputs.items()}
    if proto.type.startswith("constexpr_"):  # before iOS 18 their operands are attributes
        for key, value in proto.attributes.items():
            if key != "name":
                inputs[key] = (_constant(key, value, weights),)
    return OperationRecord(proto.type, name, inputs, outputs)


def _operation_name(proto: Any) -> str:
    if "name" not in proto.attributes:
        return ""
    return proto.attributes["name"].immediateValue.tensor.strings.values[0]


def _bindings(key: str, argument: Any, weights: Weights) -> Iterator[str | Constant]:
    for binding in argument.arguments:
        if binding.WhichOneof("binding") == "name":
            yield binding.name
        else:
            yield _constant(key, binding.value, weights)


def _constant(key: str, value: Any, weights: Weights) -> Constant:
    return Constant(tensor_info(key, value.type), value, weights)


def tensor_info(name: str, value_type: Any) -> TensorInfo:
    kind = value_type.WhichOneof("type")
    if kind != "tensorType":
        return TensorInfo(name, (), kind)  # a state, list or dictionary: refused where an operation uses it
    tensor = value_type.tensorType
    shape = tuple(d.constant.size if d.WhichOneof("dimension") == "constant" else None for d in tensor.dimensions)
    return TensorInfo(name, shape, DTYPES.get(tensor.dataType, f"datatype {tensor.dataType}"))


def _immediate(value: Any, info: TensorInfo) -> np.ndarray | str:
    kind = value.tensor.WhichOneof("value") if value.WhichOneof("value") == "tensor" else None
    if kind is None:
        raise EdgegenError(f"Constant '{info.name}' is not a tensor.", "Lists and dictionaries are not evaluated.")
    values = getattr(value.tensor, kind).values
    if kind == "strings":
        return str(values[0])
    if kind == "bytes":
        return decode(np.frombuffer(values, np.uint8).copy(), info)
    return np.array(values).astype(info.dtype).reshape(info.sizes())


def stored_bytes(info: TensorInfo) -> int:
    """Bytes of a value as a weight file holds it."""
    count = math.prod(info.sizes())
    if info.dtype in PACKED_BITS:
        return -(-count * PACKED_BITS[info.dtype] // 8)
    try:
        return count * np.dtype(info.dtype).itemsize
    except TypeError:
        raise ProgramFileError(f"{brief(info.name)} holds {info.dtype}.", "Export the package again.") from None


def decode(data: np.ndarray, info: TensorInfo) -> np.ndarray:
    """Bytes (uint8) as values of `info.dtype`, one byte each for packed integers, shaped `info.shape`."""
    if info.dtype in PACKED_BITS:
        bits = PACKED_BITS[info.dtype]
        values = unpack_bits(data, bits, math.prod(info.sizes()))
        if info.dtype == "int4":
            values = (values.astype(np.int8) ^ 8) - 8  # sign of the fourth bit
        return values.reshape(info.sizes())
    return data.view(info.dtype).reshape(info.sizes())


def unpack_bits(data: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The first `count` integers of `bits` bits each, packed from the least significant bit up, as uint8."""
    data = np.asarray(data)
    if bits == 8:
        return data[:count]
    group = bits // math.gcd(bits, 8)  # bytes that hold a whole number of values
    per_group = 8 * group // bits
    padded = np.zeros(-(-count // per_group) * group, np.uint8)
    padded[: min(data.size, padded.size)] = data[: padded.size]
    columns = padded.reshape(-1, group).T
    values = np.empty((columns.shape[1], per_group), np.uint8)
    for k in range(per_group):
        byte, shift = divmod(k * bits, 8)
        value = columns[byte] >> shift
        if shift + bits > 8:  # the rest is in the low bits of the next byte
            value |= columns[byte + 1] << (8 - shift)
        values[:, k] = value & ((1 << bits) - 1)
    return values.reshape(-1)[:count]
