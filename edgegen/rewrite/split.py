"""Attention split by head, for the Neural Engine: (B, C, 1, S) throughout.

One einsum pair per head and query chunk, a loop over BNA blocks, keys transposed once per layer, no reshape but the two
around ASSA's compressing convolution. With joined operations, the blocks whose windows lie inside the sequence are the
third axis of one einsum pair, which takes reshapes and a second transpose and leaves out most of the operations. With
grouped ones that axis has the key/value heads (grouped.py).

Shapes: B batch, D channels, S tokens, H heads, G key/value heads, E channels per head, L text tokens, M keys.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgegen.model.attention import CrossAttention, RMSNorm, SelfAttention, SparseSelfAttention
from edgegen.rewrite.bna import block_groups, cut, windows
from edgegen.rewrite.component import Form
from edgegen.rewrite.grouped import Heads, attend_chunks, joined, pieces
from edgegen.rewrite.layout import PRESCALE, ChannelsFirst, scale_of
from edgegen.rewrite.rotary import SplitRope, angles_of


class SplitHeadNorm(nn.Module):
    """RMS norm of each head of (B, H*E, 1, S) without a reshape: a grouped convolution sums, another spreads.

    Squares are taken as (x p^2) x, so that fp16 does not overflow and x itself stays the projection's output: a lone
    product behind a convolution would be fused into its weight, which would lose its name.
    """

    mean: Tensor

    def __init__(self, source: RMSNorm, heads: int, scale: float = 1.0):
        super().__init__()
        size = len(scale_of(source))
        self.heads, self.eps = heads, source.eps * PRESCALE**2
        self.register_buffer("mean", torch.full((heads, size, 1, 1), 1 / size))
        weight = (scale_of(source) * scale * PRESCALE).repeat(heads)
        self.weight = nn.Parameter(weight[:, None, None, None], requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        mean = F.conv2d(x * PRESCALE**2 * x, self.mean, groups=self.heads)  # (B, H, 1, S)
        return x * F.conv2d(torch.rsqrt(mean + self.eps), self.weight, groups=self.heads)  # (B, H*E, 1, S)


def attend_heads(q: Tensor, k: Tensor, v: Tensor, size: int, chunk: int, bias: Tensor | None = None) -> Tensor:
    """All heads: q (B, H*E, 1, S), transposed keys k (B, M, 1, G*E), v (B, G*E, 1, M) -> (B, H*E, 1, S).

    Blocks that each attend to keys of their own can take the place of the 1.
    """
    queries, keys, values = pieces(q, size, 1), pieces(k, size, 3), pieces(v, size, 1)
    group = len(queries) // len(keys)
    heads = [attend_chunks(query, keys[h // group], values[h // group], chunk, bias) for h, query in enumerate(queries)]
    return joined(heads, 1)


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
        self.grouped = Heads(config.kv_heads, config.head_dim) if form.operations == "grouped" else None

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, D, 1, S), transposed keys k (B, M, 1, G*E), v (B, G*E, 1, M) -> (B, D, 1, S)."""
        if self.grouped is not None:
            return self.grouped.attend(q, k, v, self.chunk)
        return attend_heads(q, k, v, self.config.head_dim, self.chunk)

    def keys(self, k: Tensor) -> Tensor:
        """Norm, rotation and the layer's only transpose: (B, G*E, 1, M) -> (B, M, 1, G*E)."""
        return self.rope_k(self.norm_k(k)).transpose(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        q = self.rope_q(self.norm_q(self.q(x)))  # (B, H*E, 1, S)
        return self.o(self.attend(q, self.keys(self.k(x)), self.v(x)))


class SplitSparseSelfAttention(SplitSelfAttention):
    """ASSA, (B, D, 1, S) to the same: a loop over BNA blocks, and every query over the compressed keys."""

    spread: Tensor

    def __init__(self, source: SparseSelfAttention, grid: tuple[int, int], form: Form):
        super().__init__(source, grid, form)
        self.joined = form.operations == "joined"
        self.compress_k, self.compress_v = source.compress_k, source.compress_v
        self.gate = ChannelsFirst.linear(source.gate)
        self.register_buffer("spread", torch.ones(source.config.heads * source.config.head_dim, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.shape[3]
        q, k, v = self.rope_q(self.norm_q(self.q(x))), self.k(x), self.v(x)
        k_coarse, v_coarse = self.compress(k, v)  # (B, G*E, 1, S/4) each
        k = self.rope_k(self.norm_k(torch.cat([k, k_coarse], 3)))  # (B, G*E, 1, S + S/4)
        k_fine, k_coarse = k.transpose(1, 3).split([tokens, tokens // 4], 1)  # one transpose for both branches
        o_global = self.attend(q, k_coarse, v_coarse)  # (B, D, 1, S)
        if self.joined:
            o_local = self.attend_joined(q, k, k_fine, v)  # (B, D, 1, S)
        else:
            o_local = self.attend_blocks(q, k_fine, v)
        alpha = F.conv2d(self.gate(x).sigmoid(), self.spread, groups=self.config.heads)  # (B, D, 1, S)
        return self.o(o_local + alpha * (o_global - o_local))

    def compress(self, k: Tensor, v: Tensor) -> list[Tensor]:
        """Keys and values (B, G*E, 1, S) over 2x2 cells (B, G*E, 1, S/4), through one grid."""
        both = ChannelsFirst.unflatten(torch.cat([k, v], 1), self.grid)  # (B, 2*G*E, H, W)
        k, v = both.chunk(2, 1)
        small = torch.cat([self.compress_k(k), self.compress_v(v)], 1)  # (B, 2*G*E, H/2, W/2)
        return list(ChannelsFirst.flatten(small).chunk(2, 1))

    def attend_blocks(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """BNA: each block of queries over its own window of keys."""
        tokens, config = q.shape[3], self.config
        spans = windows(tokens, config.blocks, config.radius)
        if self.grouped is not None:
            return self.grouped.attend(q, k, v, self.chunk, spans=spans)
        out = [
            attend_heads(block, cut(k, 1, span), cut(v, 3, span), config.head_dim, self.chunk)
            for block, span in zip(pieces(q, tokens // config.blocks, 3), spans, strict=True)
        ]
        return joined(out, 3)

    def attend_joined(self, q: Tensor, k: Tensor, transposed: Tensor, v: Tensor) -> Tensor:
        """BNA: the blocks inside the sequence together, those at its ends each on its own; k as it comes (B, G*E, 1, M)
        and transposed (B, M, 1, G*E).
        """
        config, out = self.config, []
        for group in block_groups(q.shape[3], config.blocks, config.radius):
            alone = group.count == 1
            span = group.first, group.first + group.keys
            keys = cut(transposed, 1, span) if alone else group.windows_first(k).transpose(1, 3)  # (B, keys, n, G*E)
            queries, values = group.queries_first(q), group.windows_first(v)  # (B, D, n, s), (B, G*E, n, keys)
            made = attend_heads(queries, keys, values, config.head_dim, self.chunk)  # (B, D, n, s)
            out.append(made if alone else ChannelsFirst.flatten(made))
        return joined(out, 3)


class SplitCrossAttention(nn.Module):
    """Attention of (B, D, 1, S) to text (B, T, 1, L) under a bias (B, L, 1, 1)."""

    def __init__(self, source: CrossAttention, form: Form):
        super().__init__()
        self.config, self.chunk = source.config, form.query_chunk
        config, linear = source.config, ChannelsFirst.linear
        self.q, self.k, self.v, self.o = linear(source.q), linear(source.k), linear(source.v), linear(source.o)
        self.norm_q = SplitHeadNorm(source.norm_q, config.heads, scale=config.head_dim**-0.5)
        self.norm_k = SplitHeadNorm(source.norm_k, config.cross_kv_heads)
        self.grouped = Heads(config.cross_kv_heads, config.head_dim) if form.operations == "grouped" else None

    def forward(self, x: Tensor, text: Tensor, bias: Tensor) -> Tensor:
        keys = self.norm_k(self.k(text)).transpose(1, 3)  # (B, L, 1, G*E)
        q = self.norm_q(self.q(x))  # (B, H*E, 1, S)
        if self.grouped is not None:
            return self.o(self.grouped.attend(q, keys, self.v(text), self.chunk, bias))
        return self.o(attend_heads(q, keys, self.v(text), self.config.head_dim, self.chunk, bias))
