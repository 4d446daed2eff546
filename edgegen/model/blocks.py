"""The parts of a stage: timestep modulation, feed-forward, the transformer block.

Shapes: B batch, N tokens, D channels, L text tokens, T text channels, F timestep features.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgegen.model.attention import CrossAttention, RMSNorm, SelfAttention, SparseSelfAttention
from edgegen.model.config import DiTConfig

TIME_SCALE = 1000.0
TIME_PERIOD = 10000.0


def timestep_features(t: Tensor, size: int) -> Tensor:
    """Sinusoidal features (B, F) of t in [0, 1] (B,): cosines, then sines, of `1000 t * 10000^(-i / (F/2))`.

    Computed outside the exported network: in fp16 the angle 1000 t is off by up to half a radian.
    """
    half, device = size // 2, t.device
    t = double(t)
    speeds = torch.exp(-math.log(TIME_PERIOD) * torch.arange(half, dtype=torch.float64, device=t.device) / half)
    angles = TIME_SCALE * t[:, None] * speeds  # (B, F/2)
    return torch.cat([angles.cos(), angles.sin()], 1).float().to(device)  # (B, F)


def double(x: Tensor) -> Tensor:
    """fp64 where the device has it, else on the CPU."""
    return (x.cpu() if x.device.type == "mps" else x).double()


class Modulation(nn.Module):
    """adaLN-single as in PixArt: one embedding of the timestep, projected once to 6 D for all blocks.

    Returns (embedding (B, D), shifts, scales and gates (B, 6, D)). `pooled` (B, T) joins the embedding when given.
    """

    def __init__(self, config: DiTConfig):
        super().__init__()
        size = config.hidden
        self.embed = nn.Linear(config.time_features, size)
        self.hidden = nn.Linear(size, size)
        self.pooled = nn.Linear(config.text_dim, size) if config.pooled_text else None
        self.out = nn.Linear(size, 6 * size)

    def forward(self, features: Tensor, pooled: Tensor | None) -> tuple[Tensor, Tensor]:
        embedding = self.hidden(F.silu(self.embed(features)))  # (B, D)
        if self.pooled is not None:
            embedding = embedding + self.pooled(pooled)
        return embedding, self.out(F.silu(embedding)).unflatten(1, (6, -1))  # (B, D), (B, 6, D)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (B, N, D) scaled and shifted per channel by (B, D)."""
    return x * (1 + scale[:, None]) + shift[:, None]


class FeedForward(nn.Module):
    """Two projections with GELU between them: the exact one, since Core ML and XNNPACK drop the tanh approximation."""

    def __init__(self, size: int, ratio: int):
        super().__init__()
        self.up = nn.Linear(size, ratio * size)
        self.down = nn.Linear(ratio * size, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """Self-attention, cross-attention and feed-forward, each on a residual, the first and last modulated by time."""

    def __init__(self, config: DiTConfig, sparse: bool, ratio: int, skip: bool = False):
        super().__init__()
        self.table = nn.Parameter(torch.randn(6, config.hidden) / config.hidden**0.5)
        self.skip = nn.Linear(2 * config.hidden, config.hidden, bias=False) if skip else None
        self.norm_attn = RMSNorm(config.hidden, affine=False)
        self.attn = SparseSelfAttention(config) if sparse else SelfAttention(config)
        self.norm_cross = RMSNorm(config.hidden)
        self.cross = CrossAttention(config)
        self.norm_ffn = RMSNorm(config.hidden, affine=False)
        self.ffn = FeedForward(config.hidden, ratio)

    def forward(
        self,
        x: Tensor,
        grid: tuple[int, int],
        modulation: Tensor,
        text: Tensor,
        mask: Tensor,
        skipped: Tensor | None = None,
    ) -> Tensor:
        if self.skip is not None:
            x = self.skip(torch.cat([x, skipped], -1))  # (B, N, D)
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (modulation + self.table).unbind(1)  # (B, D) each
        x = x + gate_a[:, None] * self.attn(modulate(self.norm_attn(x), shift_a, scale_a), grid)
        x = x + self.cross(self.norm_cross(x), text, mask)
        return x + gate_f[:, None] * self.ffn(modulate(self.norm_ffn(x), shift_f, scale_f))
