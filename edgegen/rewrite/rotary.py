"""Rotary positions in deployable form, by a constant product that turns pairs of channels or as one operation.

Shapes: B batch, S tokens, H or n heads, E channels per head.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
import torch.onnx.ops
from torch import Tensor, nn

from edgegen.model.attention import rope_angles
from edgegen.model.config import DiTConfig


def angles_of(config: DiTConfig, grid: tuple[int, int], compressed: bool) -> Tensor:
    """Rotary angles (S, E/2), followed by those of the 2x2 cell centres when keys are compressed: (S + S/4, E/2)."""
    fine = rope_angles(grid, config.head_dim, config.rope_theta)
    if not compressed:
        return fine
    half = (grid[0] // 2, grid[1] // 2)
    return torch.cat([fine, rope_angles(half, config.head_dim, config.rope_theta, cell=2)])


def quarter_turn(size: int) -> Tensor:
    """(E, E) with y[i] = -x[i + E/2] and y[i + E/2] = x[i]: the pairs of rotary positions turned by 90 degrees."""
    half, turn = size // 2, torch.zeros(size, size)
    turn[:half, half:], turn[half:, :half] = -torch.eye(half), torch.eye(half)
    return turn


TABLES: WeakValueDictionary[tuple, Tensor] = WeakValueDictionary()  # those in use, by what they were made of


def shared(name: str, angles: Tensor, heads: int, make: Callable[[], Tensor]) -> Tensor:
    """A table that every layer of the same angles and heads has in common, while one of them has it."""
    if angles.is_meta:
        return make()
    key = name, heads, tuple(angles.shape), hashlib.sha256(angles.contiguous().numpy().data).digest()
    table = TABLES.get(key)
    if table is None:
        TABLES[key] = table = make()
    return table


class SplitRope(nn.Module):
    """Rotates channel pairs (i, i + E/2) of every head of (B, H*E, 1, S) by constant angles (S, E/2)."""

    cos: Tensor
    sin: Tensor
    turn: Tensor

    def __init__(self, angles: Tensor, heads: int):
        super().__init__()
        self.heads = heads

        def spread(values: Tensor) -> Tensor:
            return values.T.repeat(2 * heads, 1)[None, :, None]  # (1, H*E, 1, S)

        self.register_buffer("cos", shared("cos", angles, heads, lambda: spread(angles.cos())))
        self.register_buffer("sin", shared("sin", angles, heads, lambda: spread(angles.sin())))
        turn = quarter_turn(2 * angles.shape[1]).repeat(heads, 1)[:, :, None, None]  # (H*E, E, 1, 1)
        self.register_buffer("turn", turn)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.cos + F.conv2d(x, self.turn, groups=self.heads) * self.sin


class BatchedRope(nn.Module):
    """Rotates channel pairs (i, i + E/2) of (B, S, n, E) by constant angles (S, E/2) -> (B, S, n*E)."""

    cos: Tensor
    sin: Tensor
    turn: Tensor

    def __init__(self, angles: Tensor):
        super().__init__()
        spread = angles.repeat(1, 2)[None, :, None]  # (1, S, 1, E)
        self.register_buffer("cos", spread.cos())
        self.register_buffer("sin", spread.sin())
        self.register_buffer("turn", quarter_turn(2 * angles.shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.cos + F.linear(x, self.turn) * self.sin).flatten(2)


class FusedRope(nn.Module):
    """What BatchedRope does, as one operation."""

    cos: Tensor
    sin: Tensor

    def __init__(self, angles: Tensor):
        super().__init__()
        self.register_buffer("cos", angles.cos()[None])  # (1, S, E/2)
        self.register_buffer("sin", angles.sin()[None])

    def forward(self, x: Tensor) -> Tensor:
        batch, heads = x.shape[0], x.shape[2]
        cos, sin = (t if batch == 1 else t.expand(batch, -1, -1) for t in (self.cos, self.sin))
        return torch.onnx.ops.rotary_embedding(x.flatten(2), cos, sin, num_heads=heads)
