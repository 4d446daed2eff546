"""MIL's compressed weights: lookup tables, affine and blockwise quantisation, sparsity.

Decompressed here from the bytes of the package, not by coremltools.
"""

import math

import numpy as np
import torch
from torch import Tensor

from edgegen.runtime.mil_file import unpack_bits
from edgegen.runtime.mil_ops import Call, Kernel, operation


def _along(vector: Tensor, axis: int, rank: int) -> Tensor:
    """A scalar or a vector shaped to broadcast along one axis."""
    return vector.reshape(-1, *[1] * (rank - 1 - axis)) if vector.dim() else vector


@operation("constexpr_affine_dequantize", data="quantized_data zero_point scale")
def _affine_dequantize(call: Call) -> Kernel:
    rank = len(call.outputs[0].shape)
    axis = call.integer("axis") % rank
    return lambda q, zero, scale: _along(scale, axis, rank) * (q.float() - _along(zero.float(), axis, rank))


@operation("constexpr_cast", data="source_val")
def _constexpr_cast(call: Call) -> Kernel:
    return lambda x: x


@operation("constexpr_lut_to_dense", data="indices lut shape", exact=True)
def _lut_to_dense(call: Call) -> Kernel:
    if not call.has("shape"):
        return _grouped_lut(call)
    shape = call.ints("shape")

    count = math.prod(shape)

    count = math.prod(shape)

    def run(indices: Tensor, lut: Tensor, _: Tensor) -> Tensor:
        codes = unpack_bits(indices.numpy(), int(math.log2(lut.numel())), count)
        return torch.from_numpy(np.take(lut.numpy(), codes)).reshape(shape)  # twice as fast as index_select

    return run


def _grouped_lut(call: Call) -> Kernel:
    """iOS 18: indices (*D), lut (*G, palettes, vector), each G dividing its D; a vector fills `vector_axis`."""
    axis = call.integer("vector_axis") if call.has("vector_axis") else None
    return lambda indices, lut, _: lookup(indices, lut, axis)


def lookup(indices: Tensor, lut: Tensor, vector_axis: int | None) -> Tensor:
    """Values of grouped lookup tables: (*D) and (*G, palettes, vector) -> (*D), vector times longer on its axis."""
    palettes, vector = lut.shape[-2:]
    groups = torch.arange(math.prod(lut.shape[:-2]), dtype=torch.int32).reshape(lut.shape[:-2])
    table = _repeat_to(groups, indices.shape)  # (*D) the table each index looks in
    values = lut.reshape(-1, vector).index_select(0, (table * palettes + indices).reshape(-1))
    values = values.reshape(*indices.shape, vector)
    if vector == 1:
        return values.squeeze(-1)
    axis = (vector_axis or 0) % indices.dim()
    return values.movedim(-1, axis + 1).flatten(axis, axis + 1)


def _repeat_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Each element repeated in place until `x` has `shape`: one value per block."""
    for axis, (have, want) in enumerate(zip(x.shape, shape, strict=True)):
        if have == 1 and want > 1:
            x = x.expand(*x.shape[:axis], want, *x.shape[axis + 1 :])
        elif have != want:
            x = x.repeat_interleave(want // have, axis)
    return x


def shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None) -> Tensor:
    """scale * (data - offset), both constant over blocks of `data`."""
    data = data.float()
    if offset is not None:
        data = data - _repeat_to(offset.float(), data.shape)
    return _repeat_to(scale, data.shape) * data


@operation("constexpr_blockwise_shift_scale", data="data scale offset")
def _blockwise(call: Call) -> Kernel:
    return shift_scale


def scatter(nonzero: Tensor, mask: Tensor) -> Tensor:
    """`nonzero` in order at the places `mask` marks, 0 elsewhere; shaped as `mask`."""
    dense = torch.zeros(mask.shape, dtype=nonzero.dtype)
    dense[mask != 0] = nonzero
    return dense


@operation("constexpr_sparse_to_dense", data="nonzero_data mask shape", exact=True)
def _sparse_to_dense(call: Call) -> Kernel:
    if not call.has("shape"):
        return lambda nonzero, mask, _: scatter(nonzero, mask)
    shape = call.ints("shape")

    def run(nonzero: Tensor, mask: Tensor, _: Tensor) -> Tensor:
        bits = torch.from_numpy(unpack_bits(mask.numpy(), 1, math.prod(shape)))
        return scatter(nonzero, bits.reshape(shape))

    return run


@operation("constexpr_lut_to_sparse", data="indices_mask indices_nonzero_data lut", exact=True)
def _lut_to_sparse(call: Call) -> Kernel:
    axis = call.integer("vector_axis") if call.has("vector_axis") else None

    def run(mask: Tensor, nonzero: Tensor, lut: Tensor) -> tuple[Tensor, Tensor]:
        values = lookup(scatter(nonzero, mask), lut, axis)
        out_mask = mask if values.shape == mask.shape else mask.repeat_interleave(lut.shape[-1], axis)
        return out_mask, values[out_mask != 0]

    return run


@operation("constexpr_sparse_blockwise_shift_scale", data="data_mask nonzero_data scale offset")
def _sparse_blockwise(call: Call) -> Kernel:
    def run(mask: Tensor, nonzero: Tensor, scale: Tensor, offset: Tensor | None) -> tuple[Tensor, Tensor]:
        return mask, shift_scale(scatter(nonzero, mask), scale, offset)[mask != 0]

    return run


@operation("dequantize", data="input zero_point scale")
def _dequantize(call: Call) -> Kernel:
    rank = len(call.outputs[0].shape)
    axis = call.integer("axis", 0) % max(rank, 1)

    def run(q: Tensor, zero: Tensor | None, scale: Tensor) -> Tensor:
        q = q.float() if zero is None else q.float() - _along(zero.float(), axis, rank)
        return q * _along(scale, axis, rank)

    return run


@operation("quantize", data="input zero_point scale")
def _quantize(call: Call) -> Kernel:
    rank = len(call.outputs[0].shape)
    axis = call.integer("axis", 0) % max(rank, 1)
    limits = torch.iinfo(getattr(torch, call.outputs[0].dtype))

    def run(x: Tensor, zero: Tensor | None, scale: Tensor) -> Tensor:
        q = torch.round(x / _along(scale, axis, rank))
        q = q if zero is None else q + _along(zero.float(), axis, rank)
        return q.clamp(limits.min, limits.max)

    return run
