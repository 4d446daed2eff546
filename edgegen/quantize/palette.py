"""One weight as a palette: a table of at most 256 values for the whole tensor, and an index an element.

Indices are packed little end first: element 0 takes the lowest bits of byte 0, an element may span two bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgegen.errors import InputError
from edgegen.model.states import as_half
from edgegen.quantize.histogram import assign, codes_of, half, histogram
from edgegen.quantize.kmeans import cluster
from edgegen.quantize.snap import snap

BITS = (1, 2, 3, 4, 6, 8)  # what Core ML's tables know
CHUNK = 2**18  # units packed at once
KEYS = ("palette", "indices", "scale")


@dataclass(frozen=True)
class Palette:
    """A quantized weight; every back end gets the same values from it."""

    values: Tensor  # (2**bits,) float16, or int8 when snapped; ascending
    scale: float | None  # of int8 values; None: the values are the centroids
    indices: Tensor  # (ceil(numel * bits / 8),) uint8, packed, in the weight's row-major order
    bits: int
    shape: tuple[int, ...]

    def centroids(self) -> Tensor:
        """The table (2**bits,) float32."""
        return self.values.float() * (1.0 if self.scale is None else self.scale)

    def unpack_indices(self) -> Tensor:
        """The indices (*shape) uint8."""
        return unpack(self.indices, self.bits, math.prod(self.shape)).view(self.shape)

    def dense(self) -> Tensor:
        """The weight (*shape) float32 that the palette stands for."""
        found = self.centroids().index_select(0, self.unpack_indices().view(-1).int())  # ten times faster than [...]
        return found.view(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of indices, values and scale."""
        return self.indices.numel() + self.values.nbytes + (0 if self.scale is None else 4)

    def to_tensors(self, name: str) -> dict[str, Tensor]:
        """What a safetensors file stores of it: `name.palette`, `name.indices` and, when snapped, `name.scale`."""
        stored = {f"{name}.palette": self.values, f"{name}.indices": self.indices}
        return stored if self.scale is None else stored | {f"{name}.scale": torch.tensor(self.scale)}

    @classmethod
    def from_tensors(cls, name: str, tensors: Mapping[str, Tensor], bits: int, shape: tuple[int, ...]) -> Palette:
        """The inverse of `to_tensors`; what is missing or does not fit is an error that names it."""
        check_bits(bits, name)
        missing = [key for key in KEYS[:2] if f"{name}.{key}" not in tensors]
        if missing:
            raise InputError(f"{name} has no {' and no '.join(missing)}.", "Quantize the checkpoint again.")
        values, indices = tensors[f"{name}.palette"], tensors[f"{name}.indices"]
        scale = tensors.get(f"{name}.scale")
        _check_stored(name, values, indices, scale, bits, tuple(shape))
        return cls(values, None if scale is None else float(scale), indices, bits, tuple(shape))


def _check_stored(
    name: str, values: Tensor, indices: Tensor, scale: Tensor | None, bits: int, shape: tuple[int, ...]
) -> None:
    remedy = "Quantize the checkpoint again."
    kind = torch.float16 if scale is None else torch.int8
    if values.shape != (2**bits,) or values.dtype != kind:
        raise InputError(
            f"{name}.palette is {tuple(values.shape)} {values.dtype}, {bits} bits want ({2**bits},) {kind}.", remedy
        )
    if indices.shape != (packed_size(math.prod(shape), bits),) or indices.dtype != torch.uint8:
        raise InputError(
            f"{name}.indices is {tuple(indices.shape)} {indices.dtype}, {shape} at {bits} bits wants "
            f"({packed_size(math.prod(shape), bits)},) torch.uint8.",
            remedy,
        )
    if not torch.isfinite(values).all() or (scale is not None and not (torch.isfinite(scale) & (scale > 0)).all()):
        raise InputError(f"{name}.palette or its scale is not finite.", remedy)


def check_bits(bits: int, name: str) -> None:
    """Refuses a number of bits that palettes do not come in."""
    if bits not in BITS:
        raise InputError(f"{name}: {bits} bits is none of {', '.join(map(str, BITS))}.", "Choose one of them.")


def packed_size(count: int, bits: int) -> int:
    """Bytes of `count` packed indices."""
    return -(-count * bits // 8)


def palette_bytes(count: int, bits: int, int8: bool = True) -> int:
    """Bytes of a palettized weight of `count` elements: what `Palette.nbytes` will say."""
    return packed_size(count, bits) + 2**bits * (1 if int8 else 2) + (4 if int8 else 0)


def unit(bits: int) -> tuple[int, int]:
    """Elements and bytes of the smallest group that fills whole bytes."""
    size = math.lcm(bits, 8)
    return size // bits, size // 8


def pack(indices: Tensor, bits: int) -> Tensor:
    """Packs indices (any shape) uint8 below 2**bits into (ceil(count * bits / 8),) uint8."""
    flat = indices.reshape(-1).numpy()
    if bits == 8:
        return torch.from_numpy(flat.copy())
    elements, size = unit(bits)
    packed = np.empty(-(-flat.size // elements) * size, np.uint8)
    for start in range(0, flat.size, CHUNK * elements):
        part = flat[start : start + CHUNK * elements]
        part = np.pad(part, (0, -part.size % elements)).reshape(-1, elements)
        word: np.ndarray = part[:, 0].astype(np.uint8 if size == 1 else np.uint32)
        number = word.dtype.type
        for place in range(1, elements):
            word |= part[:, place].astype(number) << number(place * bits)
        low = word.view(np.uint8).reshape(-1, word.itemsize)[:, :size]  # x86 and ARM: little end first
        first = start // elements * size
        packed[first : first + low.size] = low.reshape(-1)
    return torch.from_numpy(packed[: packed_size(flat.size, bits)])


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` indices (count,) uint8 of packed ones."""
    stored = packed.numpy()
    if bits == 8:
        return torch.from_numpy(stored[:count].copy())
    elements, size = unit(bits)
    indices = np.empty((-(-count // elements), elements), np.uint8)
    stored = np.pad(stored, (0, len(indices) * size - stored.size)).reshape(-1, size)
    for start in range(0, len(indices), CHUNK):
        part = stored[start : start + CHUNK]
        word: np.ndarray = part[:, 0].astype(np.uint8 if size == 1 else np.uint32)
        number = word.dtype.type
        for place in range(1, size):
            word |= part[:, place].astype(number) << number(8 * place)
        for place in range(elements):
            indices[start : start + CHUNK, place] = word >> number(place * bits) & number(2**bits - 1)
    return torch.from_numpy(indices.reshape(-1)[:count])


def palettize(
    weight: Tensor, bits: int, int8: bool = True, importance: Tensor | None = None, name: str = "the weight"
) -> Palette:
    """The palette of least squared error, each element times its importance when given.

    `importance` is not negative and broadcasts to the weight: (in,) gives the input channels of a linear layer. With
    `int8` the centroids are multiples of one scale, which every back end can hold exactly. A weight with fewer values
    than clusters repeats its last centroid. NaN and infinite values are an error that says `name`.
    """
    check_bits(bits, name)
    codes = codes_of(half(weight, name))
    found = histogram(codes)
    if not np.isfinite(found.values[[0, -1]]).all():
        as_half(weight, name)  # says what is wrong
    if importance is not None:
        found = histogram(codes, _importance(importance, weight, name))
    centroids = cluster(found, 2**bits)
    if int8:
        values, scale = snap(found, centroids)
        table = values * scale
        stored = torch.from_numpy(values.astype(np.int8))
    else:
        table, scale = centroids.astype(np.float16).astype(np.float64), None
        stored = torch.from_numpy(table.astype(np.float16))
    indices = assign(codes, table)
    padding = 2**bits - stored.numel()
    stored = torch.cat([stored, stored[-1:].expand(padding)])
    return Palette(stored, scale, pack(torch.from_numpy(indices), bits), bits, tuple(weight.shape))


def _importance(importance: Tensor, weight: Tensor, name: str) -> np.ndarray:
    """The importance of every element (numel,) float64; one that cannot weigh is an error."""
    try:
        full = torch.broadcast_to(importance.detach().double(), weight.shape)
    except RuntimeError:
        raise InputError(
            f"the importance {tuple(importance.shape)} does not broadcast to {name} {tuple(weight.shape)}.",
            "Give one number an element or an input channel.",
        ) from None
    if not torch.isfinite(full).all() or (full < 0).any() or not full.any():
        raise InputError(
            f"the importance of {name} has negative, NaN or infinite values, or is zero throughout.",
            "Give weights of 0 or more.",
        )
    return full.reshape(-1).numpy()
