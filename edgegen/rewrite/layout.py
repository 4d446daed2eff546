"""Where the channels are: the same layers channels-first, as 1x1 convolutions, or channels-last, as matrix products.

Shapes: B batch, C channels, S tokens. Channels-first is (B, C, 1, S), what the Neural Engine runs; channels-last is
(B*S, C), what CPU runtimes multiply fastest and can quantize (ONNX Runtime fuses products but not Conv).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgegen.model.attention import RMSNorm
from edgegen.rewrite.component import Form

PRESCALE = 1 / 8  # squares overflow fp16 above 255; scaled, above 2040


def weightless(module: nn.Module) -> nn.Module:
    """Freezes a module: artifacts hold constants."""
    return module.eval().requires_grad_(False)


class ChannelsFirst:
    """(B, C, 1, S): the channel axis is 1."""

    @staticmethod
    def linear(source: nn.Linear) -> nn.Module:
        """A projection as a 1x1 convolution that shares its weight."""
        conv = nn.Conv2d(source.in_features, source.out_features, 1, bias=source.bias is not None, device="meta")
        conv.weight = nn.Parameter(source.weight.detach()[:, :, None, None], requires_grad=False)
        if source.bias is not None:
            conv.bias = nn.Parameter(source.bias.detach(), requires_grad=False)
        return conv

    @staticmethod
    def vector(values: Tensor) -> Tensor:
        """(C,) -> (1, C, 1, 1)."""
        return values.detach()[None, :, None, None]

    @staticmethod
    def flatten(x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, S)."""
        return x.reshape(x.shape[0], x.shape[1], 1, -1)

    @staticmethod
    def unflatten(x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, C, 1, S) -> (B, C, H, W)."""
        return x.reshape(x.shape[0], x.shape[1], *grid)

    @staticmethod
    def accept(x: Tensor) -> Tensor:
        """An input (B, C, 1, S) as it comes."""
        return x

    @staticmethod
    def spread(condition: Tensor, x: Tensor) -> Tensor:
        """What is the same for all tokens, (B, C, 1, 1), as it broadcasts over x (B, D, 1, S)."""
        return condition

    @staticmethod
    def chunk(x: Tensor, parts: int) -> list[Tensor]:
        """Equal parts along the channels."""
        return list(x.chunk(parts, 1))


class ChannelsLast:
    """(B*S, C): the channel axis is 1. Of rank 2, a projection is one plain product; CPU runtimes reshape others."""

    @staticmethod
    def linear(source: nn.Linear) -> nn.Module:
        """A projection as it is, sharing its weight."""
        layer = nn.Linear(source.in_features, source.out_features, bias=source.bias is not None, device="meta")
        layer.weight = nn.Parameter(source.weight.detach(), requires_grad=False)
        if source.bias is not None:
            layer.bias = nn.Parameter(source.bias.detach(), requires_grad=False)
        return layer

    @staticmethod
    def vector(values: Tensor) -> Tensor:
        """(C,) -> (1, C)."""
        return values.detach()[None]

    @staticmethod
    def flatten(x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B*S, C)."""
        return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])

    @staticmethod
    def unflatten(x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B*S, C) -> (B, C, H, W)."""
        return x.reshape(-1, *grid, x.shape[1]).permute(0, 3, 1, 2)

    @staticmethod
    def accept(x: Tensor) -> Tensor:
        """An input (B, C, 1, S) -> (B*S, C)."""
        return ChannelsLast.flatten(x)

    @staticmethod
    def spread(condition: Tensor, x: Tensor) -> Tensor:
        """What is the same for all tokens, (B, C), as it broadcasts over x (B*S, D): (1, C) or (B*S, C)."""
        return condition if len(condition) == 1 else condition.repeat_interleave(len(x) // len(condition), 0)

    @staticmethod
    def chunk(x: Tensor, parts: int) -> list[Tensor]:
        """Equal parts along the channels, as slices: XNNPACK takes no split."""
        size = x.shape[1] // parts
        return [x[:, i * size : (i + 1) * size] for i in range(parts)]


Layout = type[ChannelsFirst] | type[ChannelsLast]
LAYOUTS: dict[str, Layout] = {"split": ChannelsFirst, "batched": ChannelsLast}


def layout_of(attention: str) -> Layout:
    """The layout an attention form is written in."""
    return LAYOUTS[attention]


class ChannelMean(nn.Module):
    """Mean over the channel axis, kept; channels-last as a product, since XNNPACK takes no mean there."""

    weights: Tensor | None

    def __init__(self, size: int, layout: Layout):
        super().__init__()
        last = layout is ChannelsLast
        self.register_buffer("weights", torch.full((1, size), 1 / size) if last else None)

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True) if self.weights is None else F.linear(x, self.weights)


def scale_of(source: RMSNorm) -> Tensor:
    """The scale (C,) of a norm that has one."""
    if source.weight is None:
        raise ValueError("this norm has no scale")
    return source.weight.detach()


class DeployedNorm(nn.Module):
    """RMS norm over the channel axis, scaled before squaring so that fp16 does not overflow."""

    def __init__(self, source: RMSNorm, size: int, layout: Layout):
        super().__init__()
        self.mean = ChannelMean(size, layout)
        self.eps = source.eps * PRESCALE**2
        self.weight = None
        if source.weight is not None:
            self.weight = nn.Parameter(layout.vector(source.weight), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x * PRESCALE
        y = x * torch.rsqrt(self.mean(x * x) + self.eps)
        return y if self.weight is None else y * self.weight


class FusedNorm(nn.Module):
    """RMS norm over the last axis as one operation."""

    def __init__(self, source: RMSNorm, size: int, scale: float = 1.0):
        super().__init__()
        self.size, self.eps = size, source.eps
        if source.weight is None:  # without any, the exporter makes one of one element, which ONNX Runtime broadcasts
            self.register_buffer("weight", torch.ones(size))
        else:
            self.weight = nn.Parameter(source.weight.detach() * scale, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (self.size,), self.weight, self.eps)


def channel_norm(source: RMSNorm, size: int, form: Form) -> nn.Module:
    """The norm of `size` channels in a form."""
    if form.operations == "fused":
        return FusedNorm(source, size)
    return DeployedNorm(source, size, layout_of(form.attention))


class DeployedLayerNorm(nn.Module):
    """Layer norm over the channel axis, scaled before squaring so that fp16 does not overflow."""

    def __init__(self, source: nn.LayerNorm, layout: Layout):
        super().__init__()
        self.mean = ChannelMean(source.weight.shape[0], layout)
        self.eps = source.eps * PRESCALE**2
        self.weight = nn.Parameter(layout.vector(source.weight), requires_grad=False)
        self.bias = nn.Parameter(layout.vector(source.bias), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean(x)) * PRESCALE
        return x * torch.rsqrt(self.mean(x * x) + self.eps) * self.weight + self.bias


def layer_norm(source: nn.LayerNorm, form: Form) -> nn.Module:
    """A layer norm in a form."""
    return source if form.operations == "fused" else DeployedLayerNorm(source, layout_of(form.attention))


def stride_conv(source: nn.Linear, channels: int, patch: int) -> nn.Module:
    """A projection of pixel-unshuffled cells as a convolution with stride `patch`, sharing its weight."""
    conv = nn.Conv2d(channels, source.out_features, patch, stride=patch, bias=source.bias is not None, device="meta")
    conv.weight = nn.Parameter(source.weight.detach().unflatten(1, (channels, patch, patch)), requires_grad=False)
    if source.bias is not None:
        conv.bias = nn.Parameter(source.bias.detach(), requires_grad=False)
    return conv
