"""Grouped-query attention and adaptive sparse self-attention (ASSA), arXiv 2601.08303 section 3.

Shapes: B batch, N tokens (row-major over a grid), D channels, H heads, G key/value heads, E channels per head,
L text tokens, T text channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgegen.model.config import DiTConfig


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, with a scale per channel."""

    def __init__(self, size: int, eps: float = 1e-5, affine: bool = True):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return y if self.weight is None else y * self.weight


def rope_angles(grid: tuple[int, int], head_dim: int, theta: float, cell: int = 1) -> Tensor:
    """Angles (N, E/2) of 2-D axial rotary positions: first half of the channels by row, second by column.

    `cell` 2 gives the centres of 2x2 cells in units of the fine grid: row 2i + 0.5.
    """
    quarter = head_dim // 4
    speeds = theta ** (-torch.arange(quarter, dtype=torch.float64) / quarter)  # (E/4,)
    rows, columns = (torch.arange(n, dtype=torch.float64) * cell + (cell - 1) / 2 for n in grid)
    by_row = torch.outer(rows, speeds).repeat_interleave(grid[1], 0)  # (N, E/4)
    by_column = torch.outer(columns, speeds).repeat(grid[0], 1)  # (N, E/4)
    return torch.cat([by_row, by_column], 1).float()  # (N, E/2)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotates channel pairs (i, i + E/2) of x (B, H, N, E) by angles (N, E/2)."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, -1)  # (B, H, N, E/2) each
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, H*E) -> (B, H, N, E)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, N, E) -> (B, N, H*E)."""
    return x.transpose(1, 2).flatten(2)


SMALL_SCORES = 2**20  # score elements per head group above which the fused kernel saves more memory than it costs


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention of q (B, H, N, E) over k, v (B, G, M, E); query head h reads key head h // (H/G).

    `bias` (broadcast to (B, 1, N, M)) is added to the scores. Few tokens take plain matrix products (their backward
    is several times faster on CPUs), many take PyTorch's fused kernel.
    """
    group = q.shape[1] // k.shape[1]
    if group * q.shape[2] * k.shape[2] > SMALL_SCORES:
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)  # (B, H, M, E)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
    q = q.unflatten(1, (-1, group)) * q.shape[-1] ** -0.5  # (B, G, H/G, N, E)
    scores = q @ k.unsqueeze(2).transpose(-1, -2)  # (B, G, H/G, N, M)
    if bias is not None:
        scores = scores + bias.unsqueeze(1)
    return (scores.softmax(-1).to(v.dtype) @ v.unsqueeze(2)).flatten(1, 2)  # (B, H, N, E)


def block_bias(tokens: int, blocks: int, radius: int) -> Tensor:
    """BNA as a score bias (1, 1, N, N): 0 within `radius` blocks of a query's own block, -1e4 elsewhere."""
    block = torch.arange(tokens) // (tokens // blocks)
    near = (block[:, None] - block[None, :]).abs() <= radius
    return torch.where(near, 0.0, -1e4)[None, None]  # finite in fp16, unlike -inf


class SelfAttention(nn.Module):
    """Full self-attention with grouped keys, QK-norm and 2-D RoPE."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.config = config
        size, kv_size = config.hidden, config.kv_heads * config.head_dim
        self.q = nn.Linear(size, size)
        self.k = nn.Linear(size, kv_size)
        self.v = nn.Linear(size, kv_size)
        self.norm_q = RMSNorm(config.head_dim)
        self.norm_k = RMSNorm(config.head_dim)
        self.o = nn.Linear(size, size)

    def angles(self, grid: tuple[int, int], cell: int = 1) -> Tensor:
        return rope_angles(grid, self.config.head_dim, self.config.rope_theta, cell).to(self.o.weight.device)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        angles = self.angles(grid)  # (N, E/2)
        q = rotate(self.norm_q(split_heads(self.q(x), self.config.heads)), angles)  # (B, H, N, E)
        k = rotate(self.norm_k(split_heads(self.k(x), self.config.kv_heads)), angles)  # (B, G, N, E)
        v = split_heads(self.v(x), self.config.kv_heads)  # (B, G, N, E)
        return self.o(merge_heads(attend(q, k, v)))  # (B, N, D)


class SparseSelfAttention(SelfAttention):
    """ASSA: a global branch over 2x2-compressed keys and a local branch over neighbouring blocks (BNA), mixed per head.

    `o = alpha * global + (1 - alpha) * local` with `alpha = sigmoid(gate(x))`, before the output projection. With
    `config.assa` other than "both" one branch is left, and what the other needs is not there.
    """

    def __init__(self, config: DiTConfig):
        super().__init__(config)
        kv_size, groups = config.kv_heads * config.head_dim, config.kv_heads
        if config.assa != "local":
            self.compress_k = nn.Conv2d(kv_size, kv_size, 2, stride=2, groups=groups, bias=False)
            self.compress_v = nn.Conv2d(kv_size, kv_size, 2, stride=2, groups=groups, bias=False)
        if config.assa == "both":
            self.gate = nn.Linear(config.hidden, config.heads, bias=False)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        angles = self.angles(grid)
        k, v = self.k(x), self.v(x)  # (B, N, G*E)
        q = rotate(self.norm_q(split_heads(self.q(x), self.config.heads)), angles)  # (B, H, N, E)
        if self.config.assa == "both":
            o_global, o_local = self.attend_global(q, k, v, grid), self.attend_local(q, k, v, angles)  # (B, H, N, E)
            alpha = self.gate(x).sigmoid().transpose(1, 2).unsqueeze(-1)  # (B, H, N, 1)
            o = o_local + alpha * (o_global - o_local)
        elif self.config.assa == "global":
            o = self.attend_global(q, k, v, grid)
        else:
            o = self.attend_local(q, k, v, angles)
        return self.o(merge_heads(o))  # (B, N, D)

    def attend_global(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        """Every query (B, H, N, E) over keys and values (B, N, G*E) compressed 2x2."""
        kv_heads, coarse = self.config.kv_heads, self.angles((grid[0] // 2, grid[1] // 2), cell=2)
        k_coarse = split_heads(compress(k, self.compress_k, grid), kv_heads)  # (B, G, N/4, E)
        v_coarse = split_heads(compress(v, self.compress_v, grid), kv_heads)  # (B, G, N/4, E)
        return attend(q, rotate(self.norm_k(k_coarse), coarse), v_coarse)

    def attend_local(self, q: Tensor, k: Tensor, v: Tensor, angles: Tensor) -> Tensor:
        """BNA: queries (B, H, N, E) over keys and values (B, N, G*E) of their own and the neighbouring blocks."""
        kv_heads = self.config.kv_heads
        k_fine = rotate(self.norm_k(split_heads(k, kv_heads)), angles)  # (B, G, N, E)
        near = block_bias(q.shape[2], self.config.blocks, self.config.radius).to(q.device)  # (1, 1, N, N)
        return attend(q, k_fine, split_heads(v, kv_heads), near)


def compress(x: Tensor, conv: nn.Conv2d, grid: tuple[int, int]) -> Tensor:
    """Pools tokens x (B, N, C) over 2x2 cells of the grid with a stride-2 convolution: (B, N/4, C)."""
    return conv(x.transpose(1, 2).unflatten(-1, grid)).flatten(2).transpose(1, 2)


class CrossAttention(nn.Module):
    """Attention to text tokens; keys and values have the same heads at every width and are never sliced."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.config = config
        kv_size = config.cross_kv_heads * config.head_dim
        self.q = nn.Linear(config.hidden, config.hidden)
        self.k = nn.Linear(config.text_dim, kv_size)
        self.v = nn.Linear(config.text_dim, kv_size)
        self.norm_q = RMSNorm(config.head_dim)
        self.norm_k = RMSNorm(config.head_dim)
        self.o = nn.Linear(config.hidden, config.hidden)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        q = self.norm_q(split_heads(self.q(x), self.config.heads))  # (B, H, N, E)
        k = self.norm_k(split_heads(self.k(text), self.config.cross_kv_heads))  # (B, G, L, E)
        v = split_heads(self.v(text), self.config.cross_kv_heads)  # (B, G, L, E)
        bias = ((mask - 1) * 1e4).to(x.dtype)[:, None, None]  # (B, 1, 1, L); finite in fp16, unlike -inf
        return self.o(merge_heads(attend(q, k, v, bias)))  # (B, N, D)
