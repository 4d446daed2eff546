"""Attention batched over heads and BNA blocks, for CPU runtimes.

(B*S, C) between layers, so that projections are plain products, (B, S, C) around attention; heads and blocks are batch
axes of one product, and the query heads of a key head share its rows. With fused operations, a norm, rotation or
attention is one operation.

Shapes: B batch, D channels, S tokens, H heads, G key/value heads, E channels per head, L text tokens, M keys.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
import torch.onnx.ops
from torch import Tensor, nn

from edgegen.model.attention import (
    CrossAttention,
    RMSNorm,
    SelfAttention,
    SparseSelfAttention,
    block_bias,
    rope_angles,
)
from edgegen.rewrite.bna import block_groups
from edgegen.rewrite.component import Form
from edgegen.rewrite.layout import ChannelsLast, FusedNorm, scale_of
from edgegen.rewrite.rotary import BatchedRope, FusedRope

SPARE_SCORES = 2**15  # of BNA over all tokens at once that cost less than the slices and products of its groups


class BatchedHeadNorm(nn.Module):
    """RMS norm over the last axis of (..., E), with a scale folded into its weight."""

    mean: Tensor

    def __init__(self, source: RMSNorm, scale: float = 1.0):
        super().__init__()
        self.eps = source.eps
        size = len(scale_of(source))
        self.register_buffer("mean", torch.full((1, size), 1 / size))  # XNNPACK multiplies, but takes no mean here
        self.weight = nn.Parameter(scale_of(source) * scale, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(F.linear(x * x, self.mean) + self.eps) * self.weight


def batched_head_norm(source: RMSNorm, form: Form, scale: float = 1.0) -> nn.Module:
    """The norm of each head of (..., E) in a form."""
    if form.operations == "fused":
        return FusedNorm(source, len(scale_of(source)), scale)
    return BatchedHeadNorm(source, scale)


def attend_batched(q: Tensor, k: Tensor, v: Tensor, size: int, bias: Tensor | None = None) -> Tensor:
    """q (B, S, H*E), k and v (B, M, G*E), E `size`, bias (B or 1, 1 or R*S, M) -> (B, S, H*E).

    The R query heads of a key head become rows of one product with it.
    """
    batch, tokens, groups = q.shape[0], q.shape[1], k.shape[2] // size
    queries = q.reshape(batch, tokens, -1, size).transpose(1, 2).reshape(batch * groups, -1, size)  # (B*G, R*S, E)
    keys = k.reshape(batch, -1, groups, size).permute(0, 2, 3, 1).reshape(batch * groups, size, -1)  # (B*G, E, M)
    values = v.reshape(batch, -1, groups, size).transpose(1, 2).reshape(batch * groups, -1, size)  # (B*G, M, E)
    scores = torch.bmm(queries, keys)  # (B*G, R*S, M)
    if bias is not None:
        scores = scores + (bias if len(bias) == 1 else bias.repeat_interleave(groups, 0))
    out = torch.bmm(scores.softmax(-1), values)  # (B*G, R*S, E)
    return out.reshape(batch, -1, tokens, size).transpose(1, 2).reshape(batch, tokens, -1)


def attend_fused(q: Tensor, k: Tensor, v: Tensor, size: int, bias: Tensor | None = None) -> Tensor:
    """What attend_batched does, as one operation; the bias has no more than S rows."""
    if bias is not None:
        bias = bias.expand(-1, q.shape[1], -1).unsqueeze(1)  # (B or 1, 1, S, M)
    return torch.onnx.ops.attention(
        q, k, v, bias, q_num_heads=q.shape[2] // size, kv_num_heads=k.shape[2] // size, scale=1.0
    )[0]


def attend_in(form: Form) -> Callable[..., Tensor]:
    """The attention of a form that has channels last."""
    return attend_fused if form.operations == "fused" else attend_batched


class BatchedSelfAttention(nn.Module):
    """Full self-attention, (B*S, D) to the same."""

    def __init__(self, source: SelfAttention, grid: tuple[int, int], form: Form):
        super().__init__()
        self.config, self.grid, self.tokens, self.attend = source.config, grid, grid[0] * grid[1], attend_in(form)
        config, linear = source.config, ChannelsLast.linear
        self.q, self.k, self.v, self.o = linear(source.q), linear(source.k), linear(source.v), linear(source.o)
        self.norm_q = batched_head_norm(source.norm_q, form, scale=config.head_dim**-0.5)
        self.norm_k = batched_head_norm(source.norm_k, form)
        rope = FusedRope if form.operations == "fused" else BatchedRope
        self.rope = rope(rope_angles(grid, config.head_dim, config.rope_theta))

    def by_picture(self, x: Tensor, tokens: int) -> Tensor:
        """(B*S, n*E) -> (B, S, n*E)."""
        return x.reshape(-1, tokens, x.shape[1])

    def turn_heads(self, x: Tensor, norm: nn.Module, rope: nn.Module, tokens: int) -> Tensor:
        """Heads (B*S, n*E), normalized and rotated: (B, S, n*E)."""
        return rope(norm(x.reshape(-1, tokens, x.shape[1] // self.config.head_dim, self.config.head_dim)))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens
        q = self.turn_heads(self.q(x), self.norm_q, self.rope, tokens)  # (B, S, H*E)
        k = self.turn_heads(self.k(x), self.norm_k, self.rope, tokens)  # (B, S, G*E)
        v = self.by_picture(self.v(x), tokens)  # (B, S, G*E)
        return self.o(self.attend(q, k, v, self.config.head_dim).reshape(x.shape[0], -1))


class BatchedSparseSelfAttention(BatchedSelfAttention):
    """ASSA, (B*S, D) to the same: BNA blocks folded into the batch, those at the ends on their own."""

    def __init__(self, source: SparseSelfAttention, grid: tuple[int, int], form: Form):
        super().__init__(source, grid, form)
        self.compress_k, self.compress_v = source.compress_k, source.compress_v
        self.gate = ChannelsLast.linear(source.gate)
        config, half = source.config, (grid[0] // 2, grid[1] // 2)
        self.rope_coarse = type(self.rope)(rope_angles(half, config.head_dim, config.rope_theta, cell=2))
        self.groups = block_groups(self.tokens, config.blocks, config.radius)
        self.register_buffer("near", self.near_bias() if self.is_masking_cheaper() else None)

    def near_bias(self) -> Tensor:
        """BNA as a bias of all scores: (1, S, S), or (1, R*S, S) where query heads become rows."""
        config = self.config
        near = block_bias(self.tokens, config.blocks, config.radius)[0]
        return near if self.attend is attend_fused else near.repeat(1, config.heads // config.kv_heads, 1)

    def is_masking_cheaper(self) -> bool:
        """Whether so few scores lie outside the windows that computing and masking them beats a product per group."""
        needed = sum((group.stop - group.start) * group.keys for group in self.groups)
        return len(self.groups) > 1 and self.config.heads * (self.tokens**2 - needed) <= SPARE_SCORES

    def forward(self, x: Tensor) -> Tensor:
        tokens, size = self.tokens, self.config.head_dim
        q = self.turn_heads(self.q(x), self.norm_q, self.rope, tokens)  # (B, S, H*E)
        k, v = self.k(x), self.v(x)  # (B*S, G*E)
        k_fine = self.turn_heads(k, self.norm_k, self.rope, tokens)  # (B, S, G*E)
        k_coarse = self.turn_heads(self.compress(self.compress_k, k), self.norm_k, self.rope_coarse, tokens // 4)
        v_coarse = self.by_picture(self.compress(self.compress_v, v), tokens // 4)  # (B, S/4, G*E)
        o_global = self.attend(q, k_coarse, v_coarse, size)  # (B, S, H*E)
        o_local = self.attend_blocks(q, k_fine, self.by_picture(v, tokens))  # (B, S, H*E)
        alpha = self.gate(x).sigmoid().unsqueeze(-1)  # (B*S, H, 1)
        o_global, o_local = (o.reshape(*alpha.shape[:2], size) for o in (o_global, o_local))  # (B*S, H, E)
        return self.o((o_local + alpha * (o_global - o_local)).reshape(x.shape[0], -1))

    def compress(self, conv: nn.Conv2d, x: Tensor) -> Tensor:
        """(B*S, G*E) -> (B*S/4, G*E) over 2x2 cells of the grid."""
        return ChannelsLast.flatten(conv(ChannelsLast.unflatten(x, self.grid)))

    def attend_blocks(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """BNA on q (B, S, H*E), k and v (B, S, G*E) -> (B, S, H*E)."""
        if self.near is not None:
            return self.attend(q, k, v, self.config.head_dim, self.near)
        out = []
        for group in self.groups:
            queries = group.queries(q)  # (B*n, s, H*E)
            o = self.attend(queries, group.windows(k), group.windows(v), self.config.head_dim)
            out.append(o.reshape(q.shape[0], -1, q.shape[2]))  # (B, n*s, H*E)
        return torch.cat(out, 1) if len(out) > 1 else out[0]


class BatchedCrossAttention(nn.Module):
    """Attention of (B*S, D) to text (B*L, T) under a bias (B, 1, L)."""

    def __init__(self, source: CrossAttention, form: Form):
        super().__init__()
        self.config, self.attend = source.config, attend_in(form)
        config, linear = source.config, ChannelsLast.linear
        self.q, self.k, self.v, self.o = linear(source.q), linear(source.k), linear(source.v), linear(source.o)
        self.norm_q = batched_head_norm(source.norm_q, form, scale=config.head_dim**-0.5)
        self.norm_k = batched_head_norm(source.norm_k, form)

    def norm_heads(self, x: Tensor, norm: nn.Module, batch: int) -> Tensor:
        """Heads (B*S, n*E), normalized: (B, S, n*E)."""
        return norm(x.reshape(batch, len(x) // batch, -1, self.config.head_dim)).flatten(2)

    def forward(self, x: Tensor, text: Tensor, bias: Tensor) -> Tensor:
        batch = len(bias)
        q = self.norm_heads(self.q(x), self.norm_q, batch)  # (B, S, H*E)
        k = self.norm_heads(self.k(text), self.norm_k, batch)  # (B, L, G*E)
        v = self.v(text).reshape(*k.shape)  # (B, L, G*E)
        return self.o(self.attend(q, k, v, self.config.head_dim, bias).reshape(x.shape[0], -1))
