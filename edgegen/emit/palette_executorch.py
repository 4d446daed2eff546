"""Quantized weights in an ExecuTorch program: integer linear layers whose activations XNNPACK quantizes as it runs.

XNNPACK has no table of values and no product of float activations with integer weights: a weight that is dequantized
outside it was 44 times slower than fp32. So float32 activations mean float32 weights, and the small form is int8
activations, quantized for each token when it runs, with an int8 weight a palette can hold exactly (its centroids are
int8 multiples of one scale) or int4 groups. Convolutions, a small share, stay float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.quantize.integers import IntegerWeight
from edgegen.quantize.palette import Palette
from edgegen.quantize.stored import StoredWeight, StoredWeights

GROUP = 32  # XNNPACK's int4 kernels take groups of a multiple of this


def check(weights: StoredWeights, activations: str) -> None:
    """Refuses what XNNPACK has no kernel for."""
    for name, weight in weights.items() if activations == "int8" else ():
        if isinstance(weight, Palette) and weight.scale is None:
            raise InputError(
                f"{name} has a palette of float16 values; ExecuTorch needs int8 ones.",
                'Quantize with int8 palettes, or set activations = "float32" in the tier.',
            )
        if isinstance(weight, IntegerWeight) and weight.scales.shape[1] > 1:
            group = weight.shape[1] // weight.scales.shape[1]
            if group % GROUP:
                raise InputError(
                    f"{name} has groups of {group}; XNNPACK takes multiples of {GROUP}.",
                    f"Quantize with groups of {GROUP}.",
                )


class Int8ActivationLinear(nn.Module):
    """A linear layer of integer weights and activations rounded to int8 for each token: (..., K) -> (..., N)."""

    def __init__(self, source: nn.Linear, weight: StoredWeight):
        super().__init__()
        values, scales, self.low, self.high = integers_of(weight)
        self.register_buffer("values", values)  # (N, K) int8
        grouped = scales.shape[1] > 1
        self.group = values.shape[1] // scales.shape[1] if grouped else 0
        self.register_buffer("scales", scales if grouped else scales[:, 0])  # (N, groups) or (N,)
        zeros = torch.zeros(
            scales.shape if grouped else scales.shape[:1], dtype=torch.int32 if grouped else torch.int64
        )
        self.register_buffer("zeros", zeros)
        self.bias = source.bias

    def forward(self, x: Tensor) -> Tensor:
        ops = torch.ops.quantized_decomposed
        scale, zero = ops.choose_qparams_per_token_asymmetric(x, torch.int8)
        rounded = ops.quantize_per_token(x, scale, zero, -128, 127, torch.int8)
        x = ops.dequantize_per_token(rounded, scale, zero, -128, 127, torch.int8, torch.float32)
        if self.group:
            weight = ops.dequantize_per_channel_group(
                self.values, self.scales, self.zeros, self.low, self.high, torch.int8, self.group, torch.float32
            )
        else:
            weight = ops.dequantize_per_channel(
                self.values, self.scales, self.zeros, 0, self.low, self.high, torch.int8
            )
        return F.linear(x, weight, self.bias)


def integers_of(weight: StoredWeight) -> tuple[Tensor, Tensor, int, int]:
    """Integers (N, K) int8, scales (N, groups) float32, and the range of the integers."""
    if isinstance(weight, Palette):
        assert weight.scale is not None  # refused by `check`
        values = weight.values[weight.unpack_indices().int()]
        return values, torch.full((values.shape[0], 1), weight.scale), -127, 127
    limits = (-8, 7) if weight.bits == 4 else (-127, 127)
    return weight.values, weight.scales.float(), *limits


def quantize_linears_(module: nn.Module, weights: StoredWeights) -> list[str]:
    """Replaces linear layers by integer ones, in place; returns the names of weights that stay float32."""
    from torch.ao.quantization.fx import _decomposed  # noqa: F401  (registers the operations)

    check(weights, "int8")
    layers = dict(module.named_modules())
    left = []
    for name, weight in weights.items():
        path = name.removesuffix(".weight")
        source = layers[path]
        if not isinstance(source, nn.Linear):
            left.append(name)
            continue
        parent, _, child = path.rpartition(".")
        owner = module.get_submodule(parent)
        setattr(owner, child, Int8ActivationLinear(source, weight))
    return left
