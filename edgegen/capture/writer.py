"""Writes the deployed graph: calls, layers with the names of their weights, constants, and moves between layouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from edgegen.capture.specialize import content_key, hold_
from edgegen.capture.values import Atom, Axes, Row, Value, runs, size_of, sizes

Data = fx.Node | Tensor


class Writer:
    """A graph in the making. Calls on constants are carried out at once; equal calls are written once."""

    def __init__(self, names: dict[int, str], pictures: bool = False):
        self.graph, self.root = fx.Graph(), nn.Module()
        self.pictures = pictures  # whether patches are made by shuffling pixels, which moves no innermost axis
        self.names = names  # of the module's own tensors, by id
        self._held: dict[Any, str] = {}
        self._made: dict[Any, fx.Node] = {}
        self.kept: list[Any] = []
        self.moves: list[str] = []  # every time data is moved, and for which operation
        self.doing = ""

    def input(self, name: str) -> fx.Node:
        return self.graph.placeholder(name)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """function(*args): a node, or a tensor where nothing varies."""
        flat = list(leaves((args, kwargs)))
        if not any(isinstance(leaf, fx.Node) for leaf in flat):
            return function(*args, **kwargs)
        args, kwargs = self._written(args), self._written(kwargs)
        key = (function, repr(args), repr(kwargs))
        if key not in self._made:
            self._made[key] = self.graph.call_function(function, args, kwargs)
        return self._made[key]

    def layer(self, name: str, build: Callable[[], nn.Module], x: Data) -> fx.Node:
        """A layer that keeps the name of its weight; made when it is first used."""
        holder: Any = self.root
        for part in name.split("."):
            if not hasattr(holder, part):
                holder.add_module(part, nn.Module())
            parent, holder, last = holder, getattr(holder, part), part
        if not isinstance(holder, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            made = build().eval().requires_grad_(False)
            for child, module in holder.named_children():
                made.add_module(child, module)
            setattr(parent, last, made)
        return self.graph.call_module(name, (self._written(x),))

    def constant(self, value: Tensor) -> fx.Node:
        """A tensor of the graph, under its own name where it has one; equal ones are held once."""
        key = content_key(value)
        if key not in self._held:
            name = self.names.get(id(value)) or f"constants.c{len(self._held)}"
            self._held[key] = name
            self.kept.append(value)
            hold_(self.root, name, value.detach().contiguous())  # ExecuTorch refuses operands of different orders
        key = ("get_attr", self._held[key])
        if key not in self._made:
            self._made[key] = self.graph.get_attr(key[1])
        return self._made[key]

    def _written(self, value: Any) -> Any:
        return fx.node.map_aggregate(value, lambda leaf: self.constant(leaf) if isinstance(leaf, Tensor) else leaf)

    # ---- moves ----

    def reshape(self, data: Data, shape: Sequence[int], current: Sequence[int]) -> Data:
        if list(shape) == list(current):
            return data
        return self.call(torch.reshape, data, tuple(shape))

    def moved(self, value: Value, axes: Axes) -> Value:
        """The value stored in other axes; what they hold more than the data is repeated."""
        if value.axes == axes:
            return value
        order = as_permutation(value.axes, axes)
        if order is not None:
            data = (
                value.data if order == list(range(len(order))) else self.call(torch.permute, value.data, tuple(order))
            )
            self._note(value, axes, order != list(range(len(order))))
            return Value(data, value.dims, axes)
        shuffled = self._shuffled(value, axes) if self.pictures and not value.is_constant else None
        if shuffled is not None:
            return shuffled
        held = value.held
        present: Axes = tuple(tuple(a for a in axis if a in held) for axis in axes)
        gone = [a for a in held if not any(a in axis for axis in axes)]
        if gone:
            raise ValueError(f"axes {axes} lack {gone} of {value}")
        units = [run for axis in value.axes for run in runs(axis, present)]
        wanted = [run for axis in present for run in runs(axis, value.axes)]
        data = value.data
        if [id(u[0]) for u in units] != [id(u[0]) for u in wanted]:
            if all(len(runs(axis, present)) < 2 for axis in value.axes):  # whole axes: no reshape before
                units = list(value.axes)
            data = self.reshape(data, sizes(units), value.stored)
            order = [index_of(units, run) for run in wanted]
            data = self.call(torch.permute, data, (*(i for i, u in enumerate(units) if not u), *order))
            current = [1] * (len(units) - len(order)) + sizes(wanted)
            self._note(value, axes, True)
        else:
            current = value.stored
        if present != axes:
            data, current = self._repeated(data, current, axes, held)
        return Value(self.reshape(data, sizes(axes), current), value.dims, axes)

    def _shuffled(self, value: Value, axes: Axes) -> Value | None:
        """Patches made of a picture, or a picture of patches: pixels shuffled, channels put in order by a product."""
        now, then = ([axis for axis in rows if axis] for rows in (value.axes, axes))
        patches, picture = (now, then) if len(then) == 3 else (then, now)
        found = as_patches(patches, picture)
        if found is None:
            return None
        size, own, order = found
        grid = [size_of(picture[1]) // size, size_of(picture[2]) // size]
        if patches is now:
            data = self.reshape(value.data, [1, size_of(order), *grid], value.stored)
            data = self.call(torch.pixel_shuffle, self.reordered(data, order, own), size)
        else:
            data = self.reshape(value.data, [1, *sizes(picture)], value.stored)
            data = self.reordered(self.call(torch.pixel_unshuffle, data, size), own, order)
        current = [1, *sizes(picture)] if patches is now else [1, size_of(order), *grid]
        return Value(self.reshape(data, sizes(axes), current), value.dims, axes)

    def reordered(self, data: Data, now: Row, then: Row) -> Data:
        """Channels (axis 1) in another order, as a product with a permutation."""
        if now == then:
            return data
        places = torch.arange(size_of(now)).reshape([a.size for a in now])
        order = places.permute([now.index(a) for a in then]).reshape(-1)
        turn = torch.eye(len(order))[order]  # (then, now)
        return self.call(F.conv2d, data, turn[:, :, None, None])

    def _repeated(self, data: Data, current: list[int], axes: Axes, held: set[Atom]) -> tuple[Data, list[int]]:
        """Data (its held atoms in the order of `axes`) repeated along the atoms it lacks, and its shape then."""
        pieces = [piece for axis in axes for piece in alike(axis, held)]
        data = self.reshape(data, [size_of(p) if p[0] in held else 1 for p in pieces], current)
        return self.call(torch.Tensor.expand, data, tuple(sizes(pieces))), sizes(pieces)

    def _note(self, value: Value, axes: Axes, moved: bool) -> None:
        if moved and not value.is_constant:
            self.moves.append(f"{self.doing}: {value.stored} to {sizes(axes)}")


def as_patches(patches: Sequence[Row], picture: Sequence[Row]) -> tuple[int, Row, Row] | None:
    """Pixels a side, channels as shuffling leaves them, and channels as they are in patches, where axes (R, S) or
    (R, h, w) are those of a picture (C, h*p, w*p) cut into patches.
    """
    if len(picture) != 3 or len(patches) not in (2, 3) or min(len(picture[1]), len(picture[2])) < 2:
        return None
    channels, (*rows, p), (*columns, q) = picture
    tokens = tuple(atom for axis in patches[1:] for atom in axis)
    own = (*channels, p, q)
    fits = p.size == q.size and tokens == (*rows, *columns) and set(patches[0]) == set(own)
    return (p.size, own, patches[0]) if fits else None


def alike(axis: Row, held: set[Atom]) -> list[Row]:
    """An axis cut where held atoms and others meet."""
    pieces: list[list[Atom]] = []
    for atom in axis:
        if pieces and (pieces[-1][-1] in held) == (atom in held):
            pieces[-1].append(atom)
        else:
            pieces.append([atom])
    return [tuple(piece) for piece in pieces]


def as_permutation(current: Axes, wanted: Axes) -> list[int] | None:
    """The order that makes one of the other by a permutation of whole axes alone."""
    if len(current) != len(wanted):
        return None
    free = [i for i, axis in enumerate(current) if not axis]
    places = {axis: i for i, axis in enumerate(current) if axis}
    order = []
    for position, axis in enumerate(wanted):
        if axis:
            if axis not in places:
                return None
            order.append(places[axis])
        else:
            if not free:
                return None
            order.append(free.pop(free.index(position) if position in free else 0))
    return order


def index_of(rows: Sequence[Row], row: Row) -> int:
    return next(i for i, other in enumerate(rows) if other and other[0] is row[0])


def leaves(value: Any) -> list[Any]:
    found: list[Any] = []
    fx.node.map_aggregate(value, lambda leaf: found.append(leaf))
    return found
