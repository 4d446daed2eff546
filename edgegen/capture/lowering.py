"""Writes a recorded graph in a back end's form: operation by operation, each value in the layout that suits it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from edgegen.capture.values import Atom, Axes, Row, Value, apart, plain, refinement, reshaped
from edgegen.capture.writer import Writer
from edgegen.rewrite.component import Form

DIVISIONS = {torch.ops.aten.div.Tensor, torch.ops.aten.true_divide.Tensor}
MAX_RANK = 4  # of the Neural Engine
Handler = Callable[..., Any]
HANDLERS: dict[Any, Handler] = {}


def lowers(*targets: Any) -> Callable[[Handler], Handler]:
    """Enters a function in the table of operations: (lowering, *arguments) -> value."""

    def enter(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(targets, handler))
        return handler

    return enter


class Lowering:
    """The state of one pass over a graph: `split` keeps channels on axis 1 of four, otherwise they come last."""

    def __init__(self, writer: Writer, form: Form):
        self.writer, self.form = writer, form
        self.split, self.fused = form.attention == "split", form.operations == "fused"
        self.unknown: list[str] = []  # operations done in their own layout
        self.node: fx.Node | None = None  # what is being lowered

    def lower(self, node: fx.Node, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The values of a node."""
        self.writer.doing, self.node = node.name, node
        handler = HANDLERS.get(node.target)
        if handler is None:
            return self.as_it_is(node, args, kwargs)
        return handler(self, *args, **kwargs)

    def as_it_is(self, node: fx.Node, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """An operation without a layout of its own: everything as it reads, in and out."""
        self.unknown.append(str(node.target))
        given = fx.node.map_aggregate((tuple(args), kwargs), lambda a: self.read(a) if isinstance(a, Value) else a)
        made = self.writer.call(node.target, *given[0], **given[1])
        if isinstance(node.meta["val"], (tuple, list)):
            return [plain(self.writer.call(part, made, i), v.shape) for i, v in enumerate(node.meta["val"])]
        return plain(made, node.meta["val"].shape)

    def is_divisor(self) -> bool:
        """Whether all that reads the node being lowered divides by it."""
        readers = list(self.node.users) if self.node is not None else []
        return bool(readers) and all(user.target in DIVISIONS and user.args[1] is self.node for user in readers)

    # ---- layouts ----

    def read(self, value: Value) -> fx.Node | Tensor:
        """The tensor as it reads, as another project's operation takes it."""
        return self.writer.moved(value, value.dims).data

    def channels(self, value: Value, row: Row | None = None) -> Value:
        """Stored with a row (the last dimension) alone on the channel axis: 1 of four, or the last of two."""
        row = value.dims[-1] if row is None else row
        others = tuple(a for dim in value.dims for a in dim if a not in row)
        if not self.split:
            return self.writer.moved(value, (others, row))
        if len(value.axes) == 4 and value.axes[1] == row and not value.axes[2] and value.held.issuperset(others):
            return value
        batch = value.dims[0] if len(value.dims) > 2 and value.dims[0] != row else ()
        tokens = tuple(a for a in others if a not in batch)
        return self.writer.moved(value, (batch, row, (), tokens))

    def whole(self, value: Value) -> Value:
        """With every atom held."""
        if all(a in value.held for dim in value.dims for a in dim):
            return value
        return self.writer.moved(value, value.dims)

    def alone(self, value: Value, row: Row) -> tuple[Value, int]:
        """Stored so that one axis holds a row and nothing else; that axis."""
        if not row:
            if () not in value.axes:
                value = self.writer.moved(value, (*value.axes, ()))
            return value, value.axes.index(())
        if row in value.axes:
            return value, value.axes.index(row)
        value = self.whole(value)
        axes = cut_out(value.axes, row)
        if axes is None or (self.split and len(axes) > MAX_RANK):
            axes = tuple(tuple(a for a in dim if a not in row) for dim in value.dims if dim != row) + (row,)
        return self.writer.moved(value, axes), axes.index(row)

    def leading(self, value: Value, row: Row) -> tuple[Value, int]:
        """Stored so that an axis begins with a row; that axis."""
        for i, axis in enumerate(value.axes):
            if row and axis[: len(row)] == row:
                return value, i
        return self.alone(value, row)

    def reshaped(self, value: Value, shape: Sequence[int]) -> Value:
        """Read in another shape; data is moved only where a dimension is cut across."""
        shape = full_shape(shape, value.shape)
        made = reshaped(value, shape)
        if made is None:
            data = self.writer.call(torch.reshape, self.read(value), tuple(shape))
            made = plain(data, shape)
        return made

    # ---- several values ----

    def unified(self, values: Sequence[Value]) -> tuple[list[Value], Axes]:
        """Values whose equal dimensions share their atoms, and the dimensions they broadcast to together."""
        values = list(values)
        rank = max(len(v.dims) for v in values)
        values = [v.with_dims(((),) * (rank - len(v.dims)) + v.dims) for v in values]
        values = told_apart(values)
        dims: list[Row] = []
        for d in range(rank):
            self._unify(values, d)
            dims.append(next((v.dims[d] for v in values if v.dims[d]), ()))
        return values, tuple(dims)

    def _unify(self, values: list[Value], d: int) -> None:
        """Gives dimension d of all values the same atoms, in place."""
        bearers = [i for i, v in enumerate(values) if v.dims[d]]
        for _ in bearers:  # as often as a cut in one may cut the others
            for i in bearers[1:]:
                first = values[bearers[0]]
                tables = refinement(first.dims[d], values[i].dims[d])
                if tables is None:
                    values[bearers[0]], values[i] = (self.merged(v, d) for v in (first, values[i]))
                    tables = ({}, {})
                values[bearers[0]] = values[bearers[0]].replaced(tables[0])
                values[i] = values[i].replaced(tables[1])
        for i in bearers[1:]:
            names = zip(values[i].dims[d], values[bearers[0]].dims[d], strict=True)
            values[i] = values[i].replaced({old: (new,) for old, new in names if old is not new})

    def merged(self, value: Value, d: int) -> Value:
        """With dimension d as one atom."""
        shape = value.shape
        return plain(self.read(value), shape)

    def aligned(self, values: Sequence[Value]) -> tuple[list[Value], Axes, Axes]:
        """Values that one elementwise operation can take: their new dimensions and axes too."""
        values, dims = self.unified(values)
        lead = max(
            (v for v in values if not v.is_constant),
            key=lambda v: (v.elements, not is_scattered(v), self.is_channels_first(v)),
        )
        held = {a for v in values for a in v.held}
        axes = lead.axes
        if is_scattered(lead):
            axes = self.gathered(lead, dims)
        elif held - lead.held:
            axes = self.placed(lead, dims, held)
        axes = self.divided(axes, values)
        made = [self.fitted(v, axes) for v in values]
        return made, dims, axes

    def is_channels_first(self, value: Value) -> bool:
        return self.split and len(value.axes) == 4 and bool(value.dims[-1]) and value.axes[1] == value.dims[-1]

    def gathered(self, lead: Value, dims: Axes) -> Axes:
        """Axes in which no dimension lies over several."""
        if self.split and len(dims) > 2 and len(lead.axes) == 4:
            return (dims[0], dims[-1], (), tuple(a for dim in dims[1:-1] for a in dim))
        return dims

    def placed(self, lead: Value, dims: Axes, held: set) -> Axes:
        """Axes for everything that some operand holds."""
        rows = tuple(tuple(a for a in dim if a in held) for dim in dims)
        if not self.split:
            return rows
        free = [i for i, axis in enumerate(lead.axes) if not axis]
        missing = [row for row in (tuple(a for a in dim if a in held - lead.held) for dim in dims) if row]
        if len(missing) == 1 and len(lead.axes) == 4 and free:
            spot = 3 if 3 in free else free[-1]
            return tuple(missing[0] if i == spot else axis for i, axis in enumerate(lead.axes))
        if 3 <= len(rows):
            others = tuple(a for row in rows[1:-1] for a in row)
            return (rows[0], rows[-1], (), others)
        return rows

    def divided(self, axes: Axes, values: Sequence[Value]) -> Axes:
        """Axes cut where a varying operand holds one part of an axis and not the other, as far as the rank allows."""
        wanted: list[Row] = []
        for axis in axes:
            pieces: list[list] = []
            for atom in axis:
                mark = tuple(atom in v.held for v in values if not v.is_constant or not self.split)
                if pieces and pieces[-1][0] == mark:
                    pieces[-1][1].append(atom)
                else:
                    pieces.append([mark, [atom]])
            wanted += [tuple(piece) for _, piece in pieces] or [()]
        if len(wanted) == len(axes):
            return axes
        if len(wanted) > MAX_RANK and self.split:
            wanted = [axis for axis in wanted if axis]
        if len(wanted) > MAX_RANK and self.split:
            return axes
        return tuple(wanted)

    def fitted(self, value: Value, axes: Axes) -> Value:
        """Stored in axes, where it may lack some whole ones."""
        held = value.held
        target = tuple(axis if any(a in held for a in axis) else () for axis in axes)
        return self.writer.moved(value, target)


def told_apart(values: Sequence[Value]) -> list[Value]:
    """Values of one rank in which no atom lies along one dimension of one and another dimension of another."""
    places: dict[Atom, int] = {}
    made = []
    for value in values:
        crossed = [a for d, row in enumerate(value.dims) for a in row if places.get(a, d) != d]
        value = apart(value, crossed)
        places |= {a: d for d, row in enumerate(value.dims) for a in row}
        made.append(value)
    return made


def is_scattered(value: Value) -> bool:
    """Whether a dimension lies over several axes, such as tokens over a grid."""
    places = {atom: i for i, axis in enumerate(value.axes) for atom in axis}
    return any(len({places.get(atom) for atom in row}) > 1 for row in value.dims)


def cut_out(axes: Axes, row: Row) -> Axes | None:
    """Axes in which a row that lies within one of them is an axis of its own; None where it does not."""
    for i, axis in enumerate(axes):
        for at in range(len(axis) - len(row) + 1):
            if axis[at : at + len(row)] == row:
                parts = [part for part in (axis[:at], row, axis[at + len(row) :]) if part]
                spare = len(axes) - 1 + len(parts) - MAX_RANK
                made = [*axes[:i], *parts, *axes[i + 1 :]]
                for _ in range(max(spare, 0)):
                    if () in made:
                        made.remove(())
                return tuple(made)
    return None


def part(value: Any, index: int) -> Any:
    return value[index]


def full_shape(shape: Sequence[int], current: Sequence[int]) -> list[int]:
    """A shape with -1 settled."""
    shape, total = list(shape), 1
    for size in current:
        total *= size
    if -1 in shape:
        rest = 1
        for size in shape:
            rest *= size if size != -1 else 1
        shape[shape.index(-1)] = total // rest
    return shape
