"""A value that carries its layout: which physical axis of the stored tensor holds which part of each logical dimension.

A logical dimension is a row of atoms, outermost first; a physical axis is another row of the same atoms. Reshapes and
permutations only rename: (B, S, H*E) stored as (B, H*E, 1, S) stays as it is when it is read as (B, H, S, E). Data is
moved when an operation asks for other axes. An atom that no axis holds is repeated without being stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, fx


class Atom:
    """An indivisible part of a dimension, told from others by identity."""

    __slots__ = ("size",)

    def __init__(self, size: int):
        self.size = size

    def __repr__(self) -> str:
        return f"{self.size}"


Row = tuple[Atom, ...]
Axes = tuple[Row, ...]


def size_of(row: Sequence[Atom]) -> int:
    return math.prod(atom.size for atom in row)


def sizes(rows: Sequence[Row]) -> list[int]:
    return [size_of(row) for row in rows]


@dataclass(frozen=True)
class Value:
    """A tensor of the new graph, or a constant, with its logical dimensions and physical axes."""

    data: fx.Node | Tensor
    dims: Axes
    axes: Axes

    @property
    def shape(self) -> list[int]:
        """Logical."""
        return sizes(self.dims)

    @property
    def stored(self) -> list[int]:
        """The shape of the data."""
        return sizes(self.axes)

    @property
    def is_constant(self) -> bool:
        return isinstance(self.data, Tensor)

    @property
    def held(self) -> set[Atom]:
        """The atoms that the data holds."""
        return {atom for axis in self.axes for atom in axis}

    @property
    def elements(self) -> int:
        return math.prod(self.stored)

    def with_dims(self, dims: Axes) -> Value:
        return Value(self.data, dims, self.axes)

    def replaced(self, table: dict[Atom, Row]) -> Value:
        """With atoms put for others, one or a row of them."""

        def rows(old: Axes) -> Axes:
            return tuple(tuple(new for atom in row for new in table.get(atom, (atom,))) for row in old)

        return Value(self.data, rows(self.dims), rows(self.axes))


def row_of(size: int) -> Row:
    """A new atom of a size; none for 1."""
    return () if size == 1 else (Atom(size),)


def plain(data: fx.Node | Tensor, shape: Sequence[int]) -> Value:
    """A tensor stored as it reads."""
    rows = tuple(row_of(size) for size in shape)
    return Value(data, rows, rows)


def reshaped(value: Value, shape: Sequence[int]) -> Value | None:
    """The value read in another shape without moving data; None where atoms would have to be cut across."""
    queue = [atom for row in value.dims for atom in row]
    table: dict[Atom, Row] = {}
    dims: list[Row] = []
    for size in shape:
        row: list[Atom] = []
        while size > 1:
            if not queue:
                return None
            atom = queue.pop(0)
            if size % atom.size == 0:
                row.append(atom)
                size //= atom.size
            elif atom.size % size == 0:
                outer, inner = Atom(size), Atom(atom.size // size)
                replace_(table, atom, (outer, inner))
                queue.insert(0, inner)
                row.append(outer)
                size = 1
            else:
                return None
        dims.append(tuple(row))
    return Value(value.data, tuple(dims), value.replaced(table).axes)


def apart(value: Value, atoms: Iterable[Atom]) -> Value:
    """The value with atoms of its own in the place of these: one tensor may lie along two dimensions of another."""
    own = {atom for row in value.dims for atom in row}
    return value.replaced({atom: (Atom(atom.size),) for atom in atoms if atom in own})


def replace_(table: dict[Atom, Row], atom: Atom, row: Row) -> None:
    """Adds a replacement to a table, in rows that were put in before too."""
    for key, old in table.items():
        if atom in old:
            table[key] = tuple(new for a in old for new in (row if a is atom else (a,)))
    table[atom] = row


def refinement(first: Row, second: Row) -> tuple[dict[Atom, Row], dict[Atom, Row]] | None:
    """Tables that cut two rows of one total size into atoms of the same sizes; None where they cross."""
    left, right = list(first), list(second)
    tables: tuple[dict[Atom, Row], dict[Atom, Row]] = ({}, {})
    at = 0
    while at < len(left) and at < len(right):
        a, b = left[at], right[at]
        if a.size != b.size:
            large, rows, table = (a, left, tables[0]) if a.size > b.size else (b, right, tables[1])
            small = min(a.size, b.size)
            if large.size % small:
                return None
            pieces = (Atom(small), Atom(large.size // small))
            replace_(table, large, pieces)
            rows[at : at + 1] = pieces
        at += 1
    return tables if len(left) == len(right) else None


def runs(row: Row, other: Axes) -> list[Row]:
    """A row cut into the longest pieces that lie side by side, in the same order, in some row of `other`."""
    after = {a: b for axis in other for a, b in zip(axis, axis[1:], strict=False)}
    pieces: list[list[Atom]] = []
    for atom in row:
        if pieces and after.get(pieces[-1][-1]) is atom:
            pieces[-1].append(atom)
        else:
            pieces.append([atom])
    return [tuple(piece) for piece in pieces]
