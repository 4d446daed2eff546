"""Attention of all key/value heads in one einsum pair, for the Neural Engine: far fewer operations than a pair a head.

The einsum `bchq,bkhc->bkhq` has h free: key/value heads lie there. Query heads that share a key head take turns, each
with one query head of every group. Tokens stay the innermost axis; what moves are whole rows of them.

Shapes: B batch, S or M tokens, G key/value heads, R query heads that share one, E channels per head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgegen.rewrite.bna import cut


def pieces(x: Tensor, size: int, axis: int) -> tuple[Tensor, ...]:
    """Pieces of `size` along an axis, the last maybe shorter; the whole as it is, which no converter calls an alias."""
    return x.split(size, axis) if x.shape[axis] > size else (x,)


def joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Parts one after the other along an axis; a single one as it is."""
    return torch.cat(list(parts), axis) if len(parts) > 1 else parts[0]


def attend_split(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Heads with keys of their own: q (B, E, h, Q), transposed keys k (B, M, h, E), v (B, E, h, M), bias (B, M, 1, 1)
    -> (B, E, h, Q). The two forms of einsum that Core ML keeps whole.
    """
    scores = torch.einsum("bchq,bkhc->bkhq", q, k)  # (B, M, h, Q)
    if bias is not None:
        scores = scores + bias
    return torch.einsum("bkhq,bchk->bchq", scores.softmax(1), v)


def attend_chunks(q: Tensor, k: Tensor, v: Tensor, chunk: int, bias: Tensor | None = None) -> Tensor:
    """`attend_split` of at most `chunk` queries at a time."""
    return joined([attend_split(piece, k, v, bias) for piece in pieces(q, chunk, 3)], 3)


@dataclass(frozen=True)
class Heads:
    """How heads lie in the channels of a layer: `count` key/value heads of `size` channels, queries as many or more."""

    count: int
    size: int

    def queries(self, q: Tensor) -> list[Tensor]:
        """(B, G*R*E, 1, S) -> R of (B, E, G, S), each with a head of every group."""
        apart = q.reshape(q.shape[0], self.count, -1, q.shape[3])  # (B, G, R*E, S)
        return [part.transpose(1, 2) for part in pieces(apart, self.size, 2)]

    def keys(self, k: Tensor) -> Tensor:
        """(B, M, 1, G*E) -> (B, M, G, E)."""
        return k.reshape(k.shape[0], k.shape[1], self.count, self.size)

    def values(self, v: Tensor) -> Tensor:
        """(B, G*E, 1, M) -> (B, E, G, M)."""
        return v.reshape(v.shape[0], self.count, self.size, v.shape[3]).transpose(1, 2)

    def merge(self, parts: Sequence[Tensor]) -> Tensor:
        """The inverse of `queries`."""
        together = joined([part.transpose(1, 2) for part in parts], 2)  # (B, G, R*E, S)
        return together.reshape(together.shape[0], -1, 1, together.shape[3])

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        chunk: int,
        bias: Tensor | None = None,
        spans: Sequence[tuple[int, int]] = (),
    ) -> Tensor:
        """q (B, G*R*E, 1, S), transposed keys k (B, M, 1, G*E), v (B, G*E, 1, M) -> (B, G*R*E, 1, S).

        With `spans` the queries are as many equal blocks, each over the keys from first to last-plus-one.
        """
        keys, values, made = self.keys(k), self.values(v), []
        windows = [(cut(keys, 1, span), cut(values, 3, span)) for span in spans or [(0, k.shape[1])]]
        for queries in self.queries(q):
            blocks = pieces(queries, queries.shape[3] // len(windows), 3)
            out = [attend_chunks(b, k, v, chunk, bias) for b, (k, v) in zip(blocks, windows, strict=True)]
            made.append(joined(out, 3))
        return self.merge(made)
