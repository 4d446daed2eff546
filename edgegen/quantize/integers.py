"""One weight as integers times scales, rounded to nearest from the weight itself: int8 per output, int4 in groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edgegen.errors import InputError
from edgegen.model.quantization import INT4_OFFSET, dense_integers, unpack_codes
from edgegen.model.states import check_finite
from edgegen.quantize.palette import pack, packed_size

SMALLEST_SCALE = 2.0**-24  # the least float16 above zero: a weight of zeros has a scale too


@dataclass(frozen=True)
class IntegerWeight:
    """A quantized weight: symmetric integers, a scale for each output and group of inputs."""

    values: Tensor  # (*shape) int8, within +-127, or +-7 when bits is 4
    scales: Tensor  # (out, groups) float16
    bits: int  # 8 or 4

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def dense(self) -> Tensor:
        """The weight (*shape) float32 that the integers stand for."""
        return dense_integers(self.values, self.scales, 8, self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of values and scales."""
        return packed_size(self.values.numel(), self.bits) + 2 * self.scales.numel()

    def to_tensors(self, name: str) -> dict[str, Tensor]:
        """What a safetensors file stores of it."""
        values = self.values if self.bits == 8 else pack((self.values + INT4_OFFSET).to(torch.uint8), 4)
        return {f"{name}.values": values, f"{name}.scales": self.scales}

    @classmethod
    def from_tensors(cls, name: str, tensors: Mapping[str, Tensor], bits: int, shape: tuple[int, ...]) -> IntegerWeight:
        """The inverse of `to_tensors`."""
        values = tensors[f"{name}.values"]
        if bits == 4:
            values = unpack_codes(values, 4, math.prod(shape)).to(torch.int8) - INT4_OFFSET
        return cls(values.reshape(shape), tensors[f"{name}.scales"], bits)


def round_to_nearest(weight: Tensor, bits: int, group: int = 0, name: str = "the weight") -> IntegerWeight:
    """Symmetric integers of 4 or 8 bits; `group` inputs share a scale, 0: all inputs of an output.

    A group that does not divide the inputs of one output is an error: a padded one would be read differently by
    every runtime.
    """
    check_finite(weight, name)
    inputs = weight[0].numel()
    if group and inputs % group:
        raise InputError(
            f"{name} has {inputs} inputs, which groups of {group} do not divide.", "Choose another group size, or int8."
        )
    rows = weight.detach().float().reshape(weight.shape[0], -1, group or inputs)  # (out, groups, group)
    limit = 2 ** (bits - 1) - 1
    scales = (rows.abs().amax(2) / limit).half().clamp_min(SMALLEST_SCALE)
    values = (rows / scales.float()[:, :, None]).round().clamp(-limit, limit).to(torch.int8)
    return IntegerWeight(values.reshape(weight.shape), scales, bits)
