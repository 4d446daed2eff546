"""A quantized transformer in a checkpoint: what config.json says of it, and its file read as plain weights.

transformer.safetensors then holds one width. A weight `x` of the plan is stored as
  method palette:            x.palette (2**bits,) int8 or float16, x.indices uint8 packed[, x.scale float32]
  method int8, int4-group:   x.values int8, or uint8 packed where the plan says 4, x.scales float16 (out, groups)
and every other parameter in float16 under its own name. Packed codes fill bytes from the lowest bits, row-major.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from edgegen.errors import InputError
from edgegen.model.config import DiTConfig
from edgegen.model.elastic import skeleton
from edgegen.model.states import FileState, Shapes, check_finite, some
from edgegen.schema import OneOf, Range, Size

METHODS = ("palette", "int8", "int4-group")
CODES = {  # safetensors' names of what a quantized weight's tensors may be stored as
    ".palette": ("I8", "F16"), ".indices": ("U8",), ".scale": ("F32",), ".values": ("I8", "U8"), ".scales": ("F16",),
}  # fmt: skip
INT4_OFFSET = 8  # a packed 4-bit integer is stored as value + 8


@dataclass(frozen=True)
class QuantizationConfig:
    """How a checkpoint's transformer was quantized: `plan` gives the bits of each quantized weight."""

    width: float
    method: Annotated[str, OneOf(METHODS)]
    bits_asked: Annotated[float, Range(0, 64)]
    bits: Annotated[float, Range(0, 64)]  # reached: per quantized weight, with palettes or scales
    plan: Annotated[dict[str, Annotated[int, Range(1, 8)]], Size(0, 2**16)]
    group: Annotated[int, Range(0, 2**14)] = 0  # int4-group: inputs that share a scale
    tune_steps: Annotated[int, Range(0, 10**9)] = 0
    source: dict[str, str] = field(default_factory=dict)  # the checkpoint it was made of: name, sha256

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"quantization.method {self.method!r} is not one of {', '.join(METHODS)}.")
        for name, bits in self.plan.items():
            if not 1 <= bits <= 8:
                raise InputError(f"quantization.plan: {name} has {bits} bits; 1 to 8 can be read.")

    def to_dict(self) -> dict:
        return asdict(self)


def plain_shapes(config: DiTConfig, width: float) -> Shapes:
    """Name to shape of every parameter of one width's plain model."""
    return {name: tuple(p.shape) for name, p in skeleton(config.at(width)).named_parameters()}


class QuantizedState(FileState):
    """The tensors of a quantized transformer's file; a quantized weight is given dense, as its codes say."""

    def __init__(self, path: Path, config: DiTConfig, quantization: QuantizationConfig):
        self.quantization = quantization
        super().__init__(path, plain_shapes(config, quantization.width))

    def stored_names(self, name: str) -> tuple[str, ...]:
        """The tensors of the file that make one parameter."""
        if name not in self.quantization.plan:
            return (name,)
        if self.quantization.method != "palette":
            return f"{name}.values", f"{name}.scales"
        scale = f"{name}.scale"
        return f"{name}.palette", f"{name}.indices", *((scale,) if scale in self.file.keys() else ())

    def _check_names(self) -> None:
        strangers = sorted(self.quantization.plan.keys() - self.shapes.keys())
        if strangers:
            raise InputError(
                f"{self.path.parent}/config.json: quantization.plan names {some(strangers)}, which the "
                f"transformer of width {self.quantization.width:g} does not have.",
                "Quantize again.",
            )
        found = set(self.file.keys())
        expected = {stored for name in self.shapes for stored in self.stored_names(name)}
        if expected != found:
            wrong = [
                f"{word} {some(sorted(names))}"
                for word, names in (("lacks", expected - found), ("has unexpected", found - expected))
                if names
            ]
            raise InputError(f"{self.path} {' and '.join(wrong)}.", "Make its config.json and its weights agree.")
        for name, shape in self.shapes.items():
            if name in self.quantization.plan:
                self._check_codes(name, math.prod(shape))
            else:
                self._check_stored(name, shape)

    def _check_codes(self, name: str, count: int) -> None:
        """Refuses a quantized weight whose tensors have not the size and type that its bits ask for."""
        bits, slices = self.quantization.plan[name], {}
        for stored in self.stored_names(name):
            piece, suffix = self.file.get_slice(stored), stored.removeprefix(name)
            slices[suffix] = math.prod(piece.get_shape())
            if piece.get_dtype() not in CODES[suffix]:
                allowed = " or ".join(CODES[suffix])
                raise InputError(f"{self.path}: {stored} holds {piece.get_dtype()}, not {allowed}.", "Quantize again.")
        self._check_scales(name, bits)
        if self.quantization.method == "palette":
            expected = {".palette": 2**bits, ".indices": packed_bytes(count, bits), ".scale": 1}
        else:
            expected = {".values": packed_bytes(count, bits)}
        for suffix, size in slices.items():
            if suffix in expected and size != expected[suffix]:
                raise InputError(
                    f"{self.path}: {name}{suffix} has {size} elements, {bits} bits ask for {expected[suffix]}.",
                    "Make its config.json and its weights agree.",
                )

    def _check_scales(self, name: str, bits: int) -> None:
        """Refuses scales that are not one or more for each output, and bits that integers do not come in."""
        if self.quantization.method == "palette":
            return
        if bits not in (4, 8):
            raise InputError(f"{self.path}: {name} has integers of {bits} bits, not 4 or 8.", "Quantize again.")
        found, shape = tuple(self.file.get_slice(f"{name}.scales").get_shape()), self.shapes[name]
        if len(found) != 2 or found[0] != shape[0] or not found[1] or math.prod(shape[1:]) % found[1]:
            raise InputError(f"{self.path}: {name}.scales is {found}; {shape} asks for another.", "Quantize again.")

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The stored tensors of a parameter, by their names in the file."""
        found = {stored: self.file.get_tensor(stored) for stored in self.stored_names(name)}
        for stored, tensor in found.items():
            if tensor.is_floating_point():
                check_finite(tensor, f"{self.path}: {stored}")
        return found

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.quantization.plan:
            return super().__getitem__(name)
        found = {stored.removeprefix(name): tensor for stored, tensor in self.tensors(name).items()}
        shape, bits = self.shapes[name], self.quantization.plan[name]
        if self.quantization.method == "palette":
            palette = found[".palette"].float()
            if ".scale" in found:
                palette = palette * found[".scale"].float().reshape(())
            codes = unpack_codes(found[".indices"], bits, math.prod(shape))
            return palette[codes.int()].reshape(shape)
        return dense_integers(found[".values"], found[".scales"], bits, shape)


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` packed codes."""
    return -(-count * bits // 8)


def unpack_codes(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes (count,) uint8 of packed ones."""
    data = packed.numpy()
    if bits == 8:
        return packed[:count].clone()
    if 8 % bits == 0:
        shifts = np.arange(8 // bits, dtype=np.uint8) * bits
        codes = data[:, None] >> shifts & np.uint8(2**bits - 1)
        return torch.from_numpy(codes.reshape(-1)[:count].copy())
    planes = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
    return torch.from_numpy(np.packbits(planes, axis=1, bitorder="little")[:, 0].copy())


def dense_integers(values: Tensor, scales: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """Stored integers (int8, or packed uint8 of 4 bits) times scales (out, groups), each for a run of inputs."""
    if bits == 4:
        values = unpack_codes(values, 4, math.prod(shape)).to(torch.int8) - INT4_OFFSET
    groups = scales.shape[1]
    return (values.reshape(shape[0], groups, -1) * scales.float()[:, :, None]).reshape(shape)
