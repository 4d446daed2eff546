"""Block neighbourhood attention: which keys each block of queries sees, and which blocks one product can cover.

Shapes: B batch, S tokens, C channels, n blocks of s tokens. Channels are the last axis, or the first after the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def windows(tokens: int, blocks: int, radius: int) -> list[tuple[int, int]]:
    """First and last-plus-one token of the keys that each BNA block attends to, clipped at the ends."""
    size = tokens // blocks
    return [(max(0, i - radius) * size, min(blocks, i + radius + 1) * size) for i in range(blocks)]


def cut(x: Tensor, axis: int, span: tuple[int, int]) -> Tensor:
    """From first to last-plus-one along an axis; the whole as it is."""
    start, stop = span
    return x if (start, stop) == (0, x.shape[axis]) else x.narrow(axis, start, stop - start)


@dataclass(frozen=True)
class BlockGroup:
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

    def queries_first(self, x: Tensor) -> Tensor:
        """(B, C, 1, S) -> (B, C, n, s)."""
        x = cut(x, 3, (self.start, self.stop))
        return x if self.count == 1 else x.reshape(x.shape[0], x.shape[1], self.count, -1)

    def windows_first(self, x: Tensor) -> Tensor:
        """(B, C, 1, S) -> (B, C, n, keys)."""
        if self.count == 1:
            return cut(x, 3, (self.first, self.first + self.keys))
        total, size = self.stop - self.start, (self.stop - self.start) // self.count
        shifted = [
            cut(x, 3, (at, at + total)).reshape(x.shape[0], x.shape[1], self.count, size)  # (B, C, n, s)
            for at in range(self.first, self.first + self.keys, size)
        ]
        return torch.cat(shifted, 3) if len(shifted) > 1 else shifted[0]


def block_groups(tokens: int, blocks: int, radius: int) -> list[BlockGroup]:
    """All blocks: those whose windows lie inside the sequence together, each one at the ends on its own."""
    size, spans = tokens // blocks, windows(tokens, blocks, radius)
    if radius >= blocks - 1:
        return [BlockGroup(0, tokens, 1, 0, tokens)]
    inner = blocks - 2 * radius
    made = []
    for block, (first, stop) in enumerate(spans):
        if radius < block < radius + inner:
            continue  # in the group of block `radius`
        count = inner if block == radius and inner > 0 else 1
        made.append(BlockGroup(block * size, (block + count) * size, count, first, stop - first))
    return made
