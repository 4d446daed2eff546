"""Operations that move, cut and join: most cost nothing, since only the reading of a value changes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch

from edgegen.capture.lowering import Lowering, full_shape, lowers
from edgegen.capture.values import Atom, Row, Value, plain, row_of, size_of

aten = torch.ops.aten
END = 2**62


@lowers(aten.view.default, aten.reshape.default, aten._unsafe_view.default)
def reshape(low: Lowering, x: Value, shape: Sequence[int]) -> Value:
    return low.reshaped(x, shape)


@lowers(aten.flatten.using_ints)
def flatten(low: Lowering, x: Value, start: int = 0, end: int = -1) -> Value:
    shape, rank = x.shape, len(x.dims)
    start, end = start % rank, end % rank
    return low.reshaped(x, [*shape[:start], -1, *shape[end + 1 :]])


@lowers(aten.unflatten.int)
def unflatten(low: Lowering, x: Value, dim: int, sizes: Sequence[int]) -> Value:
    shape = x.shape
    dim %= len(shape)
    return low.reshaped(x, [*shape[:dim], *full_shape(sizes, [shape[dim]]), *shape[dim + 1 :]])


@lowers(aten.permute.default)
def permute(low: Lowering, x: Value, order: Sequence[int]) -> Value:
    return x.with_dims(tuple(x.dims[i] for i in order))


@lowers(aten.transpose.int)
def transpose(low: Lowering, x: Value, first: int, second: int) -> Value:
    order = list(range(len(x.dims)))
    order[first], order[second] = order[second], order[first]
    return permute(low, x, order)


@lowers(aten.t.default)
def t(low: Lowering, x: Value) -> Value:
    return transpose(low, x, 0, -1)


@lowers(aten.unsqueeze.default)
def unsqueeze(low: Lowering, x: Value, dim: int) -> Value:
    dim %= len(x.dims) + 1
    return x.with_dims((*x.dims[:dim], (), *x.dims[dim:]))


@lowers(aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default)
def squeeze(low: Lowering, x: Value, dims: int | Sequence[int] | None = None) -> Value:
    rank = len(x.dims)
    listed = range(rank) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {d % rank for d in listed}
    return x.with_dims(tuple(row for i, row in enumerate(x.dims) if row or i not in gone))


@lowers(aten.expand.default)
def expand(low: Lowering, x: Value, shape: Sequence[int], implicit: bool = False) -> Value:
    dims = ((),) * (len(shape) - len(x.dims)) + x.dims
    made = tuple(row if row or size in (1, -1) else row_of(size) for row, size in zip(dims, shape, strict=True))
    return x.with_dims(made)


@lowers(aten.expand_as.default)
def expand_as(low: Lowering, x: Value, other: Value) -> Value:
    return expand(low, x, other.shape)


@lowers(aten.repeat.default)
def repeat(low: Lowering, x: Value, repeats: Sequence[int]) -> Value:
    dims = ((),) * (len(repeats) - len(x.dims)) + x.dims
    return x.with_dims(tuple((*row_of(n), *row) for row, n in zip(dims, repeats, strict=True)))


@lowers(aten.repeat_interleave.self_int)
def repeat_interleave(low: Lowering, x: Value, repeats: int, dim: int | None = None, output_size: Any = None) -> Value:
    if dim is None:
        x, dim = low.reshaped(x, [-1]), 0
    dim %= len(x.dims)
    return x.with_dims(tuple((*row, *row_of(repeats)) if i == dim else row for i, row in enumerate(x.dims)))


# ---- parts ----


@lowers(aten.slice.Tensor)
def cut(
    low: Lowering, x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    size, dim = x.shape[dim], dim % len(x.dims)
    start, end, step = slice(start, END if end is None else end, step).indices(size)
    if (start, end, step) == (0, size, 1):
        return x
    count, row = len(range(start, end, step)), x.dims[dim]
    held = [a in x.held for a in row]
    if not any(held):  # repeated: any part is like another
        return x.with_dims((*x.dims[:dim], row_of(count), *x.dims[dim + 1 :]))
    x = x if all(held) else low.whole(x)
    x, axis = low.leading(x, x.dims[dim]) if step == 1 else low.alone(x, x.dims[dim])
    after = x.axes[axis][len(x.dims[dim]) :]
    inner, made = size_of(after), row_of(count)
    data = low.writer.call(aten.slice.Tensor, x.data, axis, start * inner, end * inner, step)
    axes = (*x.axes[:axis], (*made, *after), *x.axes[axis + 1 :])
    return Value(data, (*x.dims[:dim], made, *x.dims[dim + 1 :]), axes)


@lowers(aten.select.int)
def select(low: Lowering, x: Value, dim: int, index: int) -> Value:
    dim, index = dim % len(x.dims), index % x.shape[dim]
    one = cut(low, x, dim, index, index + 1)
    return one.with_dims((*one.dims[:dim], *one.dims[dim + 1 :]))


@lowers(aten.unbind.int)
def unbind(low: Lowering, x: Value, dim: int = 0) -> list[Value]:
    return [select(low, x, dim, i) for i in range(x.shape[dim])]


@lowers(aten.split_with_sizes.default)
def split_with_sizes(low: Lowering, x: Value, sizes: Sequence[int], dim: int = 0) -> list[Value]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [cut(low, x, dim, end - size, end) for size, end in zip(sizes, ends, strict=True)]


@lowers(aten.split.Tensor)
def split(low: Lowering, x: Value, size: int, dim: int = 0) -> list[Value]:
    return [cut(low, x, dim, at, at + size) for at in range(0, x.shape[dim], size)]


@lowers(aten.chunk.default)
def chunk(low: Lowering, x: Value, parts: int, dim: int = 0) -> list[Value]:
    return split(low, x, -(-x.shape[dim] // parts), dim)


@lowers(operator.getitem)
def getitem(low: Lowering, values: Sequence[Value], index: int) -> Value:
    return values[index]


# ---- joins ----


@lowers(aten.cat.default)
def cat(low: Lowering, values: Sequence[Value], dim: int = 0) -> Value:
    values = [v for v in values if 0 not in v.shape]
    if len(values) == 1:
        return values[0]
    dim %= len(values[0].dims)
    values, rows = unified_but(low, values, dim)
    lead = low.whole(max((v for v in values if not v.is_constant), key=lambda v: v.elements))
    lead, axis = low.leading(lead, lead.dims[dim]) if lead.dims[dim] else beside(low, lead, dim)
    after = lead.axes[axis][len(lead.dims[dim]) :]
    made = []
    for value in values:
        target = (*lead.axes[:axis], (*value.dims[dim], *after), *lead.axes[axis + 1 :])
        made.append(low.writer.moved(value, target).data)
    row: Row = (Atom(sum(v.shape[dim] for v in values)),)
    data = low.writer.call(torch.cat, made, axis)
    dims = (*rows[:dim], row, *rows[dim + 1 :])
    return Value(data, dims, (*lead.axes[:axis], (*row, *after), *lead.axes[axis + 1 :]))


def unified_but(low: Lowering, values: Sequence[Value], dim: int) -> tuple[list[Value], tuple[Row, ...]]:
    """Values that share the atoms of every dimension but one; what is repeated is so where it is joined."""
    own = [v.dims[dim] for v in values]
    bare = [v.with_dims((*v.dims[:dim], (), *v.dims[dim + 1 :])) for v in values]
    made, dims = low.unified(bare)
    return [v.with_dims((*v.dims[:dim], row, *v.dims[dim + 1 :])) for v, row in zip(made, own, strict=True)], dims


def beside(low: Lowering, value: Value, dim: int) -> tuple[Value, int]:
    """Where a dimension of one joins: before the next dimension where that begins an axis, else an axis of its own."""
    following = value.dims[dim + 1] if dim + 1 < len(value.dims) else ()
    for i, axis in enumerate(value.axes):
        if following and axis[: len(following)] == following:
            return value, i
    return low.alone(value, ())


@lowers(aten.stack.default)
def stack(low: Lowering, values: Sequence[Value], dim: int = 0) -> Value:
    return cat(low, [unsqueeze(low, v, dim) for v in values], dim % (len(values[0].dims) + 1))


@lowers(aten.pad_sequence.default)
def pad_sequence(
    low: Lowering, values: Sequence[Value], batch_first: bool = False, value: float = 0.0, side: str = "right"
):
    """Sequences of one length, which is what a static program has; others are filled up."""
    longest = max(v.shape[0] for v in values)
    full = [pad(low, v, [0, 0] * (len(v.dims) - 1) + [0, longest - v.shape[0]], "constant", value) for v in values]
    return stack(low, full, 0 if batch_first else 1)


@lowers(aten.pad.default, aten.constant_pad_nd.default)
def pad(low: Lowering, x: Value, amounts: Sequence[int], *rest: Any) -> Value:
    """Constant padding, as joins with constants."""
    filling = next((r for r in rest if isinstance(r, (int, float)) and not isinstance(r, str)), 0.0)
    for back, (before, after) in enumerate(zip(amounts[::2], amounts[1::2], strict=True)):
        dim = len(x.dims) - 1 - back
        parts = [fill(x, dim, before, filling), x, fill(x, dim, after, filling)]
        x = cat(low, [p for p in parts if p is not None], dim)
    return x


def fill(like: Value, dim: int, count: int, value: float) -> Value | None:
    shape = like.shape
    shape[dim] = count
    return plain(torch.full(shape, float(value)), shape) if count else None


@lowers(aten.slice_scatter.default)
def slice_scatter(
    low: Lowering, x: Value, part: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    """x with a part of one dimension put in: the pieces around it joined with it."""
    if step != 1:
        raise NotImplementedError("writing every other element of a tensor")
    start, end, _ = slice(start, END if end is None else end).indices(x.shape[dim])
    around = [
        cut(low, x, dim, 0, start) if start else None,
        part,
        cut(low, x, dim, end) if end < x.shape[dim] else None,
    ]
    return cat(low, [p for p in around if p is not None], dim)


@lowers(aten.select_scatter.default)
def select_scatter(low: Lowering, x: Value, part: Value, dim: int, index: int) -> Value:
    index %= x.shape[dim]
    return slice_scatter(low, x, unsqueeze(low, part, dim), dim, index, index + 1)


@lowers(aten.copy.default)
def copy(low: Lowering, x: Value, source: Value, non_blocking: bool = False) -> Value:
    return expand(low, source, x.shape)


@lowers(aten.new_zeros.default, aten.zeros_like.default)
def zeros(low: Lowering, x: Value, shape: Sequence[int] | None = None, **kwargs: Any) -> Value:
    return filled(x.shape if shape is None else shape, 0.0)


@lowers(aten.new_ones.default, aten.ones_like.default)
def ones(low: Lowering, x: Value, shape: Sequence[int] | None = None, **kwargs: Any) -> Value:
    return filled(x.shape if shape is None else shape, 1.0)


@lowers(aten.new_full.default, aten.full_like.default)
def full(low: Lowering, x: Value, *args: Any, **kwargs: Any) -> Value:
    *shape, value = args
    return filled(shape[0] if shape else x.shape, float(value))


def filled(shape: Sequence[int], value: float) -> Value:
    return plain(torch.full(tuple(shape), value), shape)


@lowers(aten.pixel_shuffle.default)
def pixel_shuffle(low: Lowering, x: Value, factor: int) -> Value:
    batch, channels, height, width = x.shape
    return spatial(
        low,
        x,
        lambda d: low.writer.call(torch.pixel_shuffle, d, factor),
        (batch, channels // factor**2, height * factor, width * factor),
    )


@lowers(aten.pixel_unshuffle.default)
def pixel_unshuffle(low: Lowering, x: Value, factor: int) -> Value:
    batch, channels, height, width = x.shape
    return spatial(
        low,
        x,
        lambda d: low.writer.call(torch.pixel_unshuffle, d, factor),
        (batch, channels * factor**2, height // factor, width // factor),
    )


def spatial(low: Lowering, x: Value, call: Any, shape: Sequence[int]) -> Value:
    """An operation on (B, C, H, W) as it is."""
    return plain(call(low.read(low.whole(x))), shape)
