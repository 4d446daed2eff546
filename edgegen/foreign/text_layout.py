"""Which tokens of which text encoder a transformer is given, and where: seen by marks that stand for their results.

While a pipeline is observed, every result of an encoder holds, instead of its values, its number and each token's
place: `BASE * number + place`, exact in fp32. What arrives at the transformer tells what was dropped and joined.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from edgegen.foreign.reads import Path, follow
from edgegen.manifest_pipeline import BLOCKS

BASE = 2**13
WHOLE = BASE - 1  # the place in a result that has none for each token
NUMBERS = 2**11  # BASE * NUMBERS is 2^24, as far as fp32 counts
Told = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """A marked result of an encoder; count: tokens that its mask keeps; whole: that it was given."""

    encoder: str
    result: Any
    count: int
    whole: int


@dataclass
class Marks:
    """The marked results of one prompt."""

    calls: list[Call] = field(default_factory=list)
    number: int = 0

    def mark(self, encoder: str, given: Mapping[str, Any], result: Any) -> Any:
        """A result of an encoder with marks for values."""
        ids, mask = given.get("input_ids"), given.get("attention_mask")
        whole = ids.shape[1] if isinstance(ids, Tensor) else 0
        count = int(mask[:1].sum()) if isinstance(mask, Tensor) and mask.ndim == 2 else whole
        marked = pytree.tree_map(lambda leaf: self.marked(leaf, whole), result)
        self.calls.append(Call(encoder, marked, count, whole))
        return marked

    def marked(self, leaf: Any, whole: int) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or self.number + 1 >= NUMBERS:
            return leaf
        self.number += 1
        places = torch.tensor(float(WHOLE))
        if leaf.ndim == 3 and leaf.shape[1] == whole < WHOLE:
            places = torch.arange(whole, dtype=torch.float32)[None, :, None]
        return (BASE * self.number + places).expand(leaf.shape)


def cleared(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with zeros for marks."""
    clear = lambda x: x.masked_fill(x >= BASE, 0) if isinstance(x, Tensor) and x.is_floating_point() else x  # noqa: E731
    return pytree.tree_map(clear, dict(given))


def told_text(texts: list[tuple[list[Told], list[Told]]]) -> list[Told]:
    """The blocks that are the same for every prompt, if need be but for where its tokens end; empty if none are."""
    for kind in zip(*texts, strict=True):
        if all(one == kind[0] for one in kind) and len(kind[0]) <= BLOCKS:
            return kind[0]
    return []


def seen_text(
    marks: Marks, reads: Mapping[str, Mapping[Path, str]], given: Mapping[str, Any]
) -> tuple[list[Told], list[Told]]:
    """The blocks of a transformer's inputs that come from the encoders' results for a prompt, as numbers, and with None
    where a block ends with the prompt.
    """
    known = {}
    for call in prompt_calls(marks.calls):
        for path, name in reads[call.encoder].items():
            if number := number_of(follow(call.result, path)):
                known[number] = (call, name)
    told: list[tuple[Call, Told]] = []
    for name, value in given.items():
        row = row_with(value, set(known))
        if row is not None:
            told += [(call, {"input": name, **block}) for call, block in joined(blocks(row, known))]
    return [block for _, block in told], [with_open_end(call, block) for call, block in told]


def number_of(leaf: Tensor) -> int:
    """The number of a marked tensor; 0 of any other."""
    return int(leaf.flatten()[0]) // BASE if leaf.is_floating_point() and leaf.numel() else 0


def prompt_calls(calls: list[Call]) -> list[Call]:
    """Of each encoder's calls that for the prompt: the first of those with the most tokens, the other being empty."""
    found: dict[str, Call] = {}
    for call in calls:
        if call.encoder not in found or call.whole > found[call.encoder].whole:
            found[call.encoder] = call
    return list(found.values())


def row_with(value: Any, numbers: set[int]) -> Tensor | None:
    """The first row of a batch, or of a list of rows, that has a mark of these: (L, D), or (D,)."""
    rows = value if isinstance(value, list | tuple | Tensor) and getattr(value, "ndim", 1) else ()
    for row in rows:
        if isinstance(row, Tensor) and row.is_floating_point() and row.ndim in (1, 2):
            if numbers & set((row // BASE).unique().int().tolist()):
                return row
    return None


def blocks(row: Tensor, known: Mapping[int, tuple[Call, str]]) -> Iterator[tuple[Call, Told]]:
    """Runs of features with the same tokens, and in each the runs of tokens that follow one another."""
    values = row if row.ndim == 2 else row[None]  # (L, D)
    changes = (values[:, 1:] != values[:, :-1]).any(0).nonzero().flatten() + 1
    for first, last in pairwise((0, *changes.tolist(), values.shape[1])):
        column = values[:, first].long()
        starts = (column[1:] != column[:-1] + 1).nonzero().flatten() + 1
        for at, end in pairwise((0, *starts.tolist(), len(column))):
            number, place = divmod(int(column[at]), BASE)
            if number in known:
                call, name = known[number]
                block = {"encoder": call.encoder, "output": name, "features": [first, last]}
                tokens = {} if place == WHOLE else {"tokens": [place, place + end - at], "at": at}
                yield call, block | tokens


def joined(found: Iterator[tuple[Call, Told]]) -> list[tuple[Call, Told]]:
    """Blocks that differ by nothing but features beside each other, as one."""
    made: list[tuple[Call, Told]] = []
    for call, block in found:
        first, last = block["features"]
        for i, (_, other) in enumerate(made):
            if other == block | {"features": other["features"]} and other["features"][1] == first:
                made[i] = (call, block | {"features": [other["features"][0], last]})
                break
        else:
            made.append((call, block))
    return made


def with_open_end(call: Call, block: Told) -> Told:
    first, end = block.get("tokens", (0, 0))
    return block | {"tokens": [first, None]} if end and end in (call.count, call.whole) else block
