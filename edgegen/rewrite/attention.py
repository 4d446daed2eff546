"""Attention in its two deployable forms.

Split: (B, C, 1, S) throughout; one einsum pair per head and query chunk, a loop over BNA blocks, keys transposed once
per layer, no reshape but the two around ASSA's compressing convolution. Batched: (B*S, C) between layers, so that
projections are plain products, (B, S, C) around attention; heads and blocks are batch axes of one product, and the
query heads of a key head share its rows. With fused norms, rotation and attention are single operations too.

Shapes: B batch, D channels, S tokens, H heads, G key/value heads, E channels per head, L text tokens, s tokens of a
block, M keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torch.onnx.ops
from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.model.attention import (
    CrossAttention,
    RMSNorm,
    SelfAttention,
    SparseSelfAttention,
    block_bias,
    rope_angles,
)
from edgegen.model.config import DiTConfig
from edgegen.rewrite.component import Form
from edgegen.rewrite.layout import PRESCALE, ChannelsFirst, ChannelsLast, FusedNorm

MASKED = -1e4  # finite in fp16, unlike -inf
SPARE_SCORES = 2**15  # of BNA over all tokens at once that cost less than the slices and products of its runs


def angles_of(config: DiTConfig, grid: tuple[int, int], compressed: bool) -> Tensor:
    """Rotary angles (S, E/2), followed by those of the 2x2 cell centres when keys are compressed: (S + S/4, E/2)."""
    fine = rope_angles(grid, config.head_dim, config.rope_theta)
    if not compressed:
        return fine
    half = (grid[0] // 2, grid[1] // 2)
    return torch.cat([fine, rope_angles(half, config.head_dim, config.rope_theta, cell=2)])


def windows(tokens: int, blocks: int, radius: int) -> list[tuple[int, int]]:
    """First and last-plus-one token of the keys that each BNA block attends to, clipped at the ends."""
    size = tokens // blocks
    return [(max(0, i - radius) * size, min(blocks, i + radius + 1) * size) for i in range(blocks)]


def quarter_turn(size: int) -> Tensor:
    """(E, E) with y[i] = -x[i + E/2] and y[i + E/2] = x[i]: the pairs of rotary positions turned by 90 degrees."""
    half, turn = size // 2, torch.zeros(size, size)
    turn[:half, half:], turn[half:, :half] = -torch.eye(half), torch.eye(half)
    return turn


# ---- split ----------------------------------------------------------------------------------------------------------


class SplitHeadNorm(nn.Module):
    """RMS norm of each head of (B, H*E, 1, S) without a reshape: a grouped convolution sums, another spreads.

    Squares are taken as (x p^2) x, so that fp16 does not overflow and x itself stays the projection's output: a lone
    product behind a convolution would be fused into its weight, which would lose its name.
    """

    def __init__(self, source: RMSNorm, heads: int, scale: float = 1.0):
        super().__init__()
        size = source.weight.shape[0]
        self.heads, self.eps = heads, source.eps * PRESCALE**2
        self.register_buffer("mean", torch.full((heads, size, 1, 1), 1 / size))
        weight = (source.weight.detach() * scale * PRESCALE).repeat(heads)
        self.weight = nn.Parameter(weight[:, None, None, None], requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        mean = F.conv2d(x * PRESCALE**2 * x, self.mean, groups=self.heads)  # (B, H, 1, S)
        return x * F.conv2d(torch.rsqrt(mean + self.eps), self.weight, groups=self.heads)  # (B, H*E, 1, S)


class SplitRope(nn.Module):
    """Rotates channel pairs (i, i + E/2) of every head of (B, H*E, 1, S) by constant angles (S, E/2)."""

    def __init__(self, angles: Tensor, heads: int):
        super().__init__()
        half = angles.shape[1]
        self.heads = heads
        spread = angles.T.repeat(2 * heads, 1)[None, :, None]  # (1, H*E, 1, S)
        self.register_buffer("cos", spread.cos())
        self.register_buffer("sin", spread.sin())
        self.register_buffer("turn", quarter_turn(2 * half).repeat(heads, 1)[:, :, None, None])  # (H*E, E, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.cos + F.conv2d(x, self.turn, groups=self.heads) * self.sin


def attend_split(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """One head: q (B, E, 1, Q), transposed keys k (B, M, 1, E), v (B, E, 1, M), bias (B, M, 1, 1) -> (B, E, 1, Q).

    The two forms of einsum that Core ML keeps whole.
    """
    scores = torch.einsum("bchq,bkhc->bkhq", q, k)  # (B, M, 1, Q)
    if bias is not None:
        scores = scores + bias
    return torch.einsum("bkhq,bchk->bchq", scores.softmax(1), v)


def pieces(x: Tensor, size: int, axis: int) -> tuple[Tensor, ...]:
    """Pieces of `size` along an axis, the last maybe shorter; the whole as it is, which no converter calls an alias."""
    return x.split(size, axis) if x.shape[axis] > size else (x,)


def cut(x: Tensor, axis: int, span: tuple[int, int]) -> Tensor:
    """From first to last-plus-one along an axis; the whole as it is."""
    start, stop = span
    return x if (start, stop) == (0, x.shape[axis]) else x.narrow(axis, start, stop - start)


def attend_heads(q: Tensor, k: Tensor, v: Tensor, size: int, chunk: int, bias: Tensor | None = None) -> Tensor:
    """All heads: q (B, H*E, 1, S), transposed keys k (B, M, 1, G*E), v (B, G*E, 1, M) -> (B, H*E, 1, S)."""
    queries, keys, values = pieces(q, size, 1), pieces(k, size, 3), pieces(v, size, 1)
    group = len(queries) // len(keys)
    heads = []
    for h, query in enumerate(queries):
        out = [attend_split(piece, keys[h // group], values[h // group], bias) for piece in pieces(query, chunk, 3)]
        heads.append(torch.cat(out, 3) if len(out) > 1 else out[0])  # (B, E, 1, S)
    return torch.cat(heads, 1) if len(heads) > 1 else heads[0]


class SplitSelfAttention(nn.Module):
    """Full self-attention, (B, D, 1, S) to the same."""

    def __init__(self, source: SelfAttention, grid: tuple[int, int], form: Form):
        super().__init__()
        self.config, self.grid, self.chunk = source.config, grid, form.query_chunk
        self.sparse = isinstance(source, SparseSelfAttention)
        config, linear = source.config, ChannelsFirst.linear
        self.q, self.k, self.v, self.o = linear(source.q), linear(source.k), linear(source.v), linear(source.o)
        self.norm_q = SplitHeadNorm(source.norm_q, config.heads, scale=config.head_dim**-0.5)
        self.norm_k = SplitHeadNorm(source.norm_k, config.kv_heads)
        self.rope_q = SplitRope(angles_of(config, grid, False), config.heads)
        self.rope_k = SplitRope(angles_of(config, grid, self.sparse), config.kv_heads)

    def keys(self, k: Tensor) -> Tensor:
        """Norm, rotation and the layer's only transpose: (B, G*E, 1, M) -> (B, M, 1, G*E)."""
        return self.rope_k(self.norm_k(k)).transpose(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        q = self.rope_q(self.norm_q(self.q(x)))  # (B, H*E, 1, S)
        return self.o(attend_heads(q, self.keys(self.k(x)), self.v(x), self.config.head_dim, self.chunk))


class SplitSparseSelfAttention(SplitSelfAttention):
    """ASSA, (B, D, 1, S) to the same: a loop over BNA blocks, and every query over the compressed keys."""

    def __init__(self, source: SparseSelfAttention, grid: tuple[int, int], form: Form):
        super().__init__(source, grid, form)
        self.compress_k, self.compress_v = source.compress_k, source.compress_v
        self.gate = ChannelsFirst.linear(source.gate)
        self.register_buffer("spread", torch.ones(source.config.heads * source.config.head_dim, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.shape[3]
        q, k, v = self.rope_q(self.norm_q(self.q(x))), self.k(x), self.v(x)
        k_coarse, v_coarse = self.compress(k, v)  # (B, G*E, 1, S/4) each
        keys = self.keys(torch.cat([k, k_coarse], 3))  # (B, S + S/4, 1, G*E): one transpose for both branches
        k_fine, k_coarse = keys.split([tokens, tokens // 4], 1)
        o_global = attend_heads(q, k_coarse, v_coarse, self.config.head_dim, self.chunk)  # (B, D, 1, S)
        o_local = self.attend_blocks(q, k_fine, v)  # (B, D, 1, S)
        alpha = F.conv2d(self.gate(x).sigmoid(), self.spread, groups=self.config.heads)  # (B, D, 1, S)
        return self.o(o_local + alpha * (o_global - o_local))

    def compress(self, k: Tensor, v: Tensor) -> list[Tensor]:
        """Keys and values (B, G*E, 1, S) over 2x2 cells (B, G*E, 1, S/4), through one grid."""
        both = ChannelsFirst.unflatten(torch.cat([k, v], 1), self.grid)  # (B, 2*G*E, H, W)
        k, v = both.chunk(2, 1)
        small = torch.cat([self.compress_k(k), self.compress_v(v)], 1)  # (B, 2*G*E, H/2, W/2)
        return ChannelsFirst.flatten(small).chunk(2, 1)

    def attend_blocks(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """BNA: each block of queries over its own window of keys."""
        tokens, config = q.shape[3], self.config
        spans = windows(tokens, config.blocks, config.radius)
        out = [
            attend_heads(block, cut(k, 1, span), cut(v, 3, span), config.head_dim, self.chunk)
            for block, span in zip(pieces(q, tokens // config.blocks, 3), spans, strict=True)
        ]
        return torch.cat(out, 3) if len(out) > 1 else out[0]


class SplitCrossAttention(nn.Module):
    """Attention of (B, D, 1, S) to text (B, T, 1, L) under a bias (B, L, 1, 1)."""

    def __init__(self, source: CrossAttention, form: Form):
        super().__init__()
        self.config, self.chunk = source.config, form.query_chunk
        config, linear = source.config, ChannelsFirst.linear
        self.q, self.k, self.v, self.o = linear(source.q), linear(source.k), linear(source.v), linear(source.o)
        self.norm_q = SplitHeadNorm(source.norm_q, config.heads, scale=config.head_dim**-0.5)
        self.norm_k = SplitHeadNorm(source.norm_k, config.cross_kv_heads)

    def forward(self, x: Tensor, text: Tensor, bias: Tensor) -> Tensor:
        keys = self.norm_k(self.k(text)).transpose(1, 3)  # (B, L, 1, G*E)
        q = self.norm_q(self.q(x))  # (B, H*E, 1, S)
        return self.o(attend_heads(q, keys, self.v(text), self.config.head_dim, self.chunk, bias))


# ---- batched --------------------------------------------------------------------------------------------------------


class BatchedHeadNorm(nn.Module):
    """RMS norm over the last axis of (..., E), with a scale folded into its weight."""

    def __init__(self, source: RMSNorm, scale: float = 1.0):
        super().__init__()
        self.eps = source.eps
        size = source.weight.shape[0]
        self.register_buffer("mean", torch.full((1, size), 1 / size))  # XNNPACK multiplies, but takes no mean here
        self.weight = nn.Parameter(source.weight.detach() * scale, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(F.linear(x * x, self.mean) + self.eps) * self.weight


def batched_head_norm(source: RMSNorm, form: Form, scale: float = 1.0) -> nn.Module:
    """The norm of each head of (..., E) in a form."""
    if form.norm == "fused":
        return FusedNorm(source, source.weight.shape[0], scale)
    return BatchedHeadNorm(source, scale)


class BatchedRope(nn.Module):
    """Rotates channel pairs (i, i + E/2) of (B, S, n, E) by constant angles (S, E/2) -> (B, S, n*E)."""

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

    def __init__(self, angles: Tensor):
        super().__init__()
        self.register_buffer("cos", angles.cos()[None])  # (1, S, E/2)
        self.register_buffer("sin", angles.sin()[None])

    def forward(self, x: Tensor) -> Tensor:
        batch, heads = x.shape[0], x.shape[2]
        cos, sin = (t if batch == 1 else t.expand(batch, -1, -1) for t in (self.cos, self.sin))
        return torch.onnx.ops.rotary_embedding(x.flatten(2), cos, sin, num_heads=heads)


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
    return attend_fused if form.norm == "fused" else attend_batched


class BatchedSelfAttention(nn.Module):
    """Full self-attention, (B*S, D) to the same."""

    def __init__(self, source: SelfAttention, grid: tuple[int, int], form: Form):
        super().__init__()
        self.config, self.grid, self.tokens, self.attend = source.config, grid, grid[0] * grid[1], attend_in(form)
        config, linear = source.config, ChannelsLast.linear
        self.q, self.k, self.v, self.o = linear(source.q), linear(source.k), linear(source.v), linear(source.o)
        self.norm_q = batched_head_norm(source.norm_q, form, scale=config.head_dim**-0.5)
        self.norm_k = batched_head_norm(source.norm_k, form)
        rope = FusedRope if form.norm == "fused" else BatchedRope
        self.rope = rope(rope_angles(grid, config.head_dim, config.rope_theta))

    def by_picture(self, x: Tensor, tokens: int) -> Tensor:
        """(B*S, n*E) -> (B, S, n*E)."""
        return x.reshape(-1, tokens, x.shape[1])

    def turned(self, x: Tensor, norm: nn.Module, rope: nn.Module, tokens: int) -> Tensor:
        """Heads (B*S, n*E), normalized and rotated: (B, S, n*E)."""
        return rope(norm(x.reshape(-1, tokens, x.shape[1] // self.config.head_dim, self.config.head_dim)))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens
        q = self.turned(self.q(x), self.norm_q, self.rope, tokens)  # (B, S, H*E)
        k = self.turned(self.k(x), self.norm_k, self.rope, tokens)  # (B, S, G*E)
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
        self.runs = runs(self.tokens, config.blocks, config.radius)
        self.register_buffer("near", self.near_bias() if self.is_masking_cheaper() else None)

    def near_bias(self) -> Tensor:
        """BNA as a bias of all scores: (1, S, S), or (1, R*S, S) where query heads become rows."""
        config = self.config
        near = block_bias(self.tokens, config.blocks, config.radius)[0]
        return near if self.attend is attend_fused else near.repeat(1, config.heads // config.kv_heads, 1)

    def is_masking_cheaper(self) -> bool:
        """Whether so few scores lie outside the windows that computing and masking them beats a product per run."""
        needed = sum((run.stop - run.start) * run.keys for run in self.runs)
        return len(self.runs) > 1 and self.config.heads * (self.tokens**2 - needed) <= SPARE_SCORES

    def forward(self, x: Tensor) -> Tensor:
        tokens, size = self.tokens, self.config.head_dim
        q = self.turned(self.q(x), self.norm_q, self.rope, tokens)  # (B, S, H*E)
        k, v = self.k(x), self.v(x)  # (B*S, G*E)
        k_fine = self.turned(k, self.norm_k, self.rope, tokens)  # (B, S, G*E)
        k_coarse = self.turned(self.compress(self.compress_k, k), self.norm_k, self.rope_coarse, tokens // 4)
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
        for run in self.runs:
            queries = run.queries(q)  # (B*n, s, H*E)
            o = self.attend(queries, run.windows(k), run.windows(v), self.config.head_dim)
            out.append(o.reshape(q.shape[0], -1, q.shape[2]))  # (B, n*s, H*E)
        return torch.cat(out, 1) if len(out) > 1 else out[0]


@dataclass(frozen=True)
class Run:
    """Blocks of queries `start` to `stop` that one product covers: `count` of them, each with a window of `keys` keys.

    The first window begins at key `first`, each next one a block later.
    """

    start: int
    stop: int
    count: int
    first: int
    keys: int

    def queries(self, x: Tensor) -> Tensor:
        """(B, S, C) -> (B*n, s, C)."""
        x = cut(x, 1, (self.start, self.stop))
        return x if self.count == 1 else x.reshape(x.shape[0] * self.count, -1, x.shape[2])

    def windows(self, x: Tensor) -> Tensor:
        """(B, S, C) -> (B*n, keys, C)."""
        if self.count == 1:
            return cut(x, 1, (self.first, self.first + self.keys))
        total, size = self.stop - self.start, (self.stop - self.start) // self.count
        shifted = [
            cut(x, 1, (at, at + total)).reshape(-1, size, x.shape[2])  # (B*n, s, C)
            for at in range(self.first, self.first + self.keys, size)
        ]
        return torch.cat(shifted, 1) if len(shifted) > 1 else shifted[0]


def runs(tokens: int, blocks: int, radius: int) -> list[Run]:
    """All blocks: those whose windows lie inside the sequence together, each one at the ends on its own."""
    size, spans = tokens // blocks, windows(tokens, blocks, radius)
    if radius >= blocks - 1:
        return [Run(0, tokens, 1, 0, tokens)]
    inner = blocks - 2 * radius
    made = []
    for block, (first, stop) in enumerate(spans):
        if radius < block < radius + inner:
            continue  # in the run of block `radius`
        count = inner if block == radius and inner > 0 else 1
        made.append(Run(block * size, (block + count) * size, count, first, stop - first))
    return made


class BatchedCrossAttention(nn.Module):
    """Attention of (B*S, D) to text (B*L, T) under a bias (B, 1, L)."""

    def __init__(self, source: CrossAttention, form: Form):
        super().__init__()
        self.config, self.attend = source.config, attend_in(form)
        config, linear = source.config, ChannelsLast.linear
        self.q, self.k, self.v, self.o = linear(source.q), linear(source.k), linear(source.v), linear(source.o)
        self.norm_q = batched_head_norm(source.norm_q, form, scale=config.head_dim**-0.5)
        self.norm_k = batched_head_norm(source.norm_k, form)

    def normed(self, x: Tensor, norm: nn.Module, batch: int) -> Tensor:
        """Heads (B*S, n*E), normalized: (B, S, n*E)."""
        return norm(x.reshape(batch, len(x) // batch, -1, self.config.head_dim)).flatten(2)

    def forward(self, x: Tensor, text: Tensor, bias: Tensor) -> Tensor:
        batch = len(bias)
        q = self.normed(self.q(x), self.norm_q, batch)  # (B, S, H*E)
        k = self.normed(self.k(text), self.norm_k, batch)  # (B, L, G*E)
        v = self.v(text).reshape(*k.shape)  # (B, L, G*E)
        return self.o(self.attend(q, k, v, self.config.head_dim, bias).reshape(x.shape[0], -1))


def self_attention(source: SelfAttention, grid: tuple[int, int], form: Form) -> nn.Module:
    """A self-attention layer in the given form; only ASSA of both branches is deployed."""
    sparse = isinstance(source, SparseSelfAttention)
    if sparse and source.config.assa != "both":
        raise InputError(
            f"assa {source.config.assa!r} is for studies and has no deployed form.",
            "Export a model trained with assa both.",
        )
    if form.attention == "split":
        return (SplitSparseSelfAttention if sparse else SplitSelfAttention)(source, grid, form)
    return (BatchedSparseSelfAttention if sparse else BatchedSelfAttention)(source, grid, form)


def cross_attention(source: CrossAttention, form: Form) -> nn.Module:
    """A cross-attention layer in the given form."""
    return (SplitCrossAttention if form.attention == "split" else BatchedCrossAttention)(source, form)
