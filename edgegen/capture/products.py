"""Products of two varying values, reductions, and attention in its split, batched and fused forms."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
import torch.onnx.ops
from torch import Tensor

from edgegen.capture.elementwise import joint
from edgegen.capture.lowering import Lowering, lowers
from edgegen.capture.values import Axes, Row, Value, apart, plain, row_of, size_of
from edgegen.rewrite.attention import MASKED

aten = torch.ops.aten


# ---- products ----


@lowers(aten.matmul.default, aten.bmm.default, aten.mm.default)
def matmul(low: Lowering, a: Value, b: Value) -> Value:
    """(..., M, K) x (..., K, N); turned round where the operands lie so that no data needs to move."""
    if b.is_constant and len(b.dims) == 2:
        from edgegen.capture.layers import linear

        return linear(low, a, Value(b.data.T, b.dims[::-1], b.axes[::-1]))
    rank = max(len(a.dims), len(b.dims))
    a, b = (v.with_dims(((),) * (rank - len(v.dims)) + v.dims) for v in (low.whole(a), low.whole(b)))
    b = apart(b, set(a.dims[-2]) & set(b.dims[-1]))  # scores of tokens with themselves
    a_turned = a.with_dims((*a.dims[:-2], a.dims[-1], a.dims[-2]))  # (..., K, M): K lines up with b's
    (left, right), _ = low.unified([a_turned.with_dims((*a_turned.dims[:-1], ())), b.with_dims((*b.dims[:-1], ()))])
    k, m, n = left.dims[-2], a.dims[-1 - 1], b.dims[-1]
    m, n = (row_in(v, row) for v, row in ((left, m), (right, n)))
    batch = tuple(x or y for x, y in zip(left.dims[:-2], right.dims[:-2], strict=True))
    groups = tuple(row for row in batch if row) if low.split else (tuple(a for row in batch for a in row),)
    left_data, left_flipped = flat(low, left, groups, m, k)
    right_data, right_flipped = flat(low, right, groups, k, n)
    call = low.writer.call
    turn = lambda data: call(torch.transpose, data, -1, -2)  # noqa: E731
    dims = (*batch, m, n)
    if left_flipped and right_flipped:  # (K, M) and (N, K) as stored: N x M comes out without a move
        return Value(call(torch.matmul, right_data, left_data), dims, (*groups, n, m))
    made = call(
        torch.matmul, turn(left_data) if left_flipped else left_data, turn(right_data) if right_flipped else right_data
    )
    return Value(made, dims, (*groups, m, n))


def row_in(value: Value, row: Row) -> Row:
    """A row of the value before its atoms were cut, as it is now."""
    held = value.held
    if all(a in held for a in row):
        return row
    raise NotImplementedError("a matrix dimension that was cut")


def flat(low: Lowering, value: Value, groups: Axes, first: Row, second: Row) -> tuple[Any, bool]:
    """Data in axes (groups..., first, second), or the last two the other way round where that is how they lie."""
    own = tuple(tuple(a for a in row if a in value.held) for row in groups)
    order = [a for axis in value.axes for a in axis]
    flipped = bool(first and second) and order.index(second[0]) < order.index(first[0])
    tail = (second, first) if flipped else (first, second)
    if any(own) and own != groups and any(o != g and o for o, g in zip(own, groups, strict=True)):
        own = groups
    return low.writer.moved(value, (*own, *tail)).data, flipped


@lowers(aten.einsum.default)
def einsum(low: Lowering, equation: str, values: Sequence[Value], path: Any = None) -> Value:
    """As it reads; one that only permutes costs nothing."""
    left, right = equation.replace(" ", "").split("->")
    if len(values) == 1 and sorted(left) == sorted(right):
        return values[0].with_dims(tuple(values[0].dims[left.index(c)] for c in right))
    terms = left.split(",")
    sizes = {c: s for term, v in zip(terms, values, strict=True) for c, s in zip(term, v.shape, strict=True)}
    data = low.writer.call(torch.einsum, equation, *[low.read(low.whole(v)) for v in values])
    return plain(data, [sizes[c] for c in right])


# ---- reductions ----


@lowers(aten.mean.dim)
def mean(low: Lowering, x: Value, dims: Sequence[int], keep: bool = False, dtype: Any = None) -> Value:
    return reduced(low, torch.mean, x, dims, keep)


@lowers(aten.sum.dim_IntList)
def total(low: Lowering, x: Value, dims: Sequence[int], keep: bool = False, dtype: Any = None) -> Value:
    return reduced(low, torch.sum, x, dims, keep)


def reduced(low: Lowering, function: Any, x: Value, dims: Sequence[int], keep: bool) -> Value:
    rank = len(x.dims)
    x = low.whole(x)
    for d in {d % rank for d in dims}:
        x, axis = low.alone(x, x.dims[d])
        data = low.writer.call(function, x.data, axis, True)
        x = Value(
            data,
            tuple(() if i == d else r for i, r in enumerate(x.dims)),
            tuple(() if i == axis else r for i, r in enumerate(x.axes)),
        )
    gone = {d % rank for d in dims}
    return x if keep else x.with_dims(tuple(row for i, row in enumerate(x.dims) if i not in gone))


@lowers(aten.softmax.int, aten._softmax.default)
def softmax(low: Lowering, x: Value, dim: int, dtype: Any = None) -> Value:
    x, axis = low.alone(low.whole(x), x.dims[dim])
    return Value(low.writer.call(torch.softmax, x.data, axis), x.dims, x.axes)


# ---- attention ----


@lowers(aten.scaled_dot_product_attention.default)
def attention(
    low: Lowering,
    q: Value,
    k: Value,
    v: Value,
    mask: Value | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """softmax(q k^T scale + mask) v over (B, H, S, E)."""
    scale = size_of(q.dims[-1]) ** -0.5 if scale is None else scale
    if is_causal:
        causal = torch.full((q.shape[-2], k.shape[-2]), MASKED).triu(1)
        mask = plain(causal, causal.shape)
    mask = None if mask is None else additive(low, mask)
    q, k, v = low.whole(q), without_repeats(low, k), without_repeats(low, v)
    if enable_gqa and size_of(k.dims[1]) != size_of(q.dims[1]):
        repeats = size_of(q.dims[1]) // size_of(k.dims[1])
        k, v = (x.with_dims((x.dims[0], (*x.dims[1], *row_of(repeats)), *x.dims[2:])) for x in (k, v))
    if low.split:
        return attend_per_head(low, q, k, v, mask, scale)
    if low.fused and is_simple(mask):
        return attend_in_one(low, q, k, v, mask, scale)
    return attend_in_batches(low, q, k, v, mask, scale)


def is_simple(mask: Value | None) -> bool:
    return mask is None or len(mask.dims) <= 4


def additive(low: Lowering, mask: Value) -> Value | None:
    """A mask that is added, finite in fp16, from one that says which keys count; None for one that leaves out none."""
    dims = ((),) * (4 - len(mask.dims)) + mask.dims
    if all_or_none(mask):  # what is only repeated broadcasts
        dims = tuple(row if all(a in mask.held for a in row) else () for row in dims)
    mask = mask.with_dims(dims)
    if mask.is_constant:
        data = mask.data
        data = (~data).float() * MASKED if data.dtype is torch.bool else data.clamp(min=MASKED)
        return told_once(low.read(low.whole(Value(data, mask.dims, mask.axes)))) if data.any() else None
    if is_boolean(mask):
        number = Value(low.writer.call(torch.Tensor.float, mask.data), mask.dims, mask.axes)
        return joint(low, operator.add, joint(low, operator.mul, number, -MASKED), MASKED)
    return mask


def told_once(mask: Tensor) -> Value:
    """A constant mask (B, H, S, M) that is held once where it repeats over pictures, heads or queries."""
    for d in range(mask.ndim - 1):
        first = mask.narrow(d, 0, 1)
        mask = first if torch.equal(first.expand_as(mask), mask) else mask
    return plain(mask, mask.shape)


def is_boolean(value: Value) -> bool:
    """Whether a node holds truths: what comparisons and logic make, and conversions to bool."""
    target, args = value.data.target, value.data.args
    if target in (
        torch.eq,
        torch.ne,
        torch.lt,
        torch.le,
        torch.gt,
        torch.ge,
        torch.logical_not,
        torch.logical_and,
        torch.logical_or,
        torch.bitwise_not,
        torch.bitwise_and,
        torch.bitwise_or,
    ):
        return True
    if target is torch.Tensor.to:
        return torch.bool in args
    if target is torch.cat:  # of a constant, which tells nothing here, and of what does
        return any(is_boolean(Value(part, (), ())) for part in args[0])
    moves = (torch.reshape, torch.permute, torch.Tensor.expand, aten.slice.Tensor)
    return target in moves and is_boolean(Value(args[0], (), ()))


def without_repeats(low: Lowering, x: Value) -> Value:
    """Everything held but repeated heads, which several queries share."""
    rest = [a for i, row in enumerate(x.dims) if i != 1 for a in row]
    return x if all(a in x.held for a in rest) else low.whole(x)


def shared(k: Value) -> list[int]:
    """For each head, in order, which of the stored heads it reads."""
    held = k.held
    spans = [range(a.size) for a in k.dims[1]]
    found = []
    for index in product(*spans):
        at = 0
        for atom, i in zip(k.dims[1], index, strict=True):
            at = at * atom.size + i if atom in held else at
        found.append(at)
    return found


def held_row(k: Value) -> Row:
    return tuple(a for a in k.dims[1] if a in k.held)


def attend_per_head(low: Lowering, q: Value, k: Value, v: Value, mask: Value | None, scale: float) -> Value:
    """One pair of einsums a head and chunk of queries; keys are transposed once."""
    (b, h, s, e), call, moved = q.dims, low.writer.call, low.writer.moved
    m, size, deep = k.dims[2], size_of(e), size_of(v.dims[3])
    (b_k, heads, width), depth = (k.dims[0], held_row(k), k.dims[3]), v.dims[3]
    queries = moved(q, (b, (*h, *e), (), s)).data
    keys = moved(moved(k, (b_k, (*heads, *width), (), m)), (b_k, m, (), (*heads, *width))).data  # (B, M, 1, G*E)
    keys = call(operator.mul, keys, scale)
    values = moved(v, (v.dims[0], (*held_row(v), *depth), (), v.dims[2])).data
    bias = None if mask is None else scores_bias(low, mask, b, h, s, m)
    out = []
    for head, (at_k, at_v) in enumerate(zip(shared(k), shared(v), strict=True)):
        query = part(low, queries, 1, head, size, len(shared(k)))
        key = part(low, keys, 3, at_k, size, size_of(heads))
        value = part(low, values, 1, at_v, deep, size_of(held_row(v)))
        out.append(attend_chunks(low, query, key, value, head_bias(low, bias, h, head), size_of(s)))
    data = call(torch.cat, out, 1) if len(out) > 1 else out[0]
    return Value(data, (b, h, s, depth), (b, (*h, *depth), (), s))


def part(low: Lowering, data: Any, axis: int, index: int, size: int, count: int) -> Any:
    return data if count == 1 else low.writer.call(aten.slice.Tensor, data, axis, index * size, (index + 1) * size)


def attend_chunks(low: Lowering, q: Any, k: Any, v: Any, bias: Any, tokens: int) -> Any:
    """One head over chunks of its queries."""
    call, chunk, made = low.writer.call, low.form.query_chunk, []
    data, rows = (None, False) if bias is None else bias
    for at in range(0, tokens, chunk):
        cut = lambda x: call(aten.slice.Tensor, x, 3, at, min(at + chunk, tokens)) if tokens > chunk else x  # noqa: B023, E731
        scores = call(torch.einsum, "bchq,bkhc->bkhq", cut(q), k)  # (B, M, 1, Q)
        if data is not None:
            scores = call(operator.add, scores, cut(data) if rows else data)
        made.append(call(torch.einsum, "bkhq,bchk->bchq", call(torch.softmax, scores, 1), v))
    return call(torch.cat, made, 3) if len(made) > 1 else made[0]


def scores_bias(low: Lowering, mask: Value, b: Row, h: Row, s: Row, m: Row) -> Value:
    """A mask as it lies over scores (B, M, 1, S), heads before keys."""
    mb, mh, ms, mm = mask.dims
    mask = low.whole(mask) if not all_or_none(mask) else mask
    own = lambda row: tuple(a for a in row if a in mask.held)  # noqa: E731
    return low.writer.moved(mask, (own(mb), (*own(mh), *own(mm)), (), own(ms)))


def all_or_none(value: Value) -> bool:
    return all(len({a in value.held for a in row}) <= 1 for row in value.dims)


def head_bias(low: Lowering, bias: Value | None, h: Row, head: int) -> tuple[Any, bool] | None:
    """The part of a bias that one head adds, and whether it has a column a query."""
    if bias is None:
        return None
    heads = size_of(tuple(a for a in bias.dims[1] if a in bias.held))
    keys = size_of(bias.axes[1]) // heads
    return part(low, bias.data, 1, head if heads > 1 else 0, keys, heads), bool(bias.axes[3])


def attend_in_batches(low: Lowering, q: Value, k: Value, v: Value, mask: Value | None, scale: float) -> Value:
    """Batched products; queries that share a key head become rows of one product with it."""
    (_, _, s, e), call, moved = q.dims, low.writer.call, low.writer.moved
    q, k, v, row, rest = grouped(low, q, k, v)
    m, batch = k.dims[2], (*q.dims[0], *row)
    queries = moved(q, (batch, (*rest, *s), e)).data
    queries = call(operator.mul, queries, scale)
    keys = moved(k, ((*k.dims[0], *held_row(k)), k.dims[3], m)).data
    values = moved(v, ((*v.dims[0], *held_row(v)), v.dims[2], v.dims[3])).data
    scores = call(torch.bmm, queries, keys)
    if mask is not None:
        scores = add_mask(low, scores, mask, q, row, rest, m)
    data = call(torch.bmm, call(torch.softmax, scores, -1), values)
    return Value(data, (q.dims[0], (*row, *rest), s, v.dims[3]), (batch, (*rest, *s), v.dims[3]))


def grouped(low: Lowering, q: Value, k: Value, v: Value) -> tuple[Value, Value, Value, Row, Row]:
    """Values whose query heads are (stored key heads, rest); keys are spread where their order is another."""
    heads, count = held_row(k), size_of(q.dims[1])
    repeats = count // size_of(heads)
    in_order = shared(k) == shared(v) == [i // repeats for i in range(count)]
    if not in_order:
        k, v, heads, repeats = low.whole(k), low.whole(v), k.dims[1], 1
    (q, _), _ = low.unified([q, plain(torch.zeros(1, size_of(heads), repeats, 1, 1).flatten(1, 2), [1, count, 1, 1])])
    b, _, s, e = q.dims
    shape = [size_of(b), size_of(heads), repeats, size_of(s), size_of(e)]
    five = low.reshaped(q, shape)
    row, rest = five.dims[1], five.dims[2]
    return five.with_dims((five.dims[0], (*row, *rest), five.dims[3], five.dims[4])), k, v, row, rest


def add_mask(low: Lowering, scores: Any, mask: Value, q: Value, row: Row, rest: Row, m: Row) -> Any:
    """Scores (B*G, R*S, M) plus a mask (B, H, S, M)."""
    batch, call = size_of(q.dims[0]), low.writer.call
    mb, mh, ms, mm = mask.shape
    if mh == 1 and mb == 1:
        data = (
            low.writer.moved(mask, (mask.dims[0], mask.dims[2], mask.dims[3])).data
            if ms > 1
            else low.writer.moved(mask, ((), (), mask.dims[3])).data
        )
        if ms > 1 and size_of(rest) > 1:
            data = call(torch.Tensor.repeat, data, 1, size_of(rest), 1)
        return call(operator.add, scores, data)
    full = [batch, size_of(row) * size_of(rest), size_of(q.dims[2]), size_of(m)]
    data = call(torch.Tensor.expand, low.read(low.whole(mask)), tuple(full))
    data = call(torch.reshape, data, (batch * size_of(row), size_of(rest) * full[2], full[3]))
    return call(operator.add, scores, data)


LONG = 512  # keys from which ONNX Runtime gains by attention in blocks (emit/onnx_attention.py), of no shared heads


def attend_in_one(low: Lowering, q: Value, k: Value, v: Value, mask: Value | None, scale: float) -> Value:
    """One operation on (B, S, H*E)."""
    b, h, s, e = q.dims
    count = size_of(h)
    heads = size_of(held_row(k))
    in_order = shared(k) == shared(v) == [i // (count // heads) for i in range(count)]
    in_blocks = size_of(k.dims[2]) >= LONG and (mask is None or is_of_keys(mask))
    if in_blocks or not in_order:
        k, v = low.whole(k), low.whole(v)
        heads = count
    rows = [low.writer.moved(x, (x.dims[0], x.dims[2], (*held_row(x), *x.dims[3]))).data for x in (q, k, v)]
    bias = None
    if mask is not None:
        shape = (*mask.shape[:2], size_of(s), mask.shape[3])
        bias = low.writer.call(torch.Tensor.expand, low.read(low.whole(mask)), shape)
    made = low.writer.call(fused_attention, *rows, bias, count, heads, scale)
    return Value(made, (b, h, s, v.dims[3]), (b, s, (*h, *v.dims[3])))


def is_of_keys(mask: Value) -> bool:
    """Whether a mask is the same for every head and query."""
    return mask.shape[1:3] == [1, 1]


def fused_attention(q: Any, k: Any, v: Any, bias: Any, heads: int, key_heads: int, scale: float) -> Any:
    """ONNX's Attention of opset 23."""
    return torch.onnx.ops.attention(q, k, v, bias, q_num_heads=heads, kv_num_heads=key_heads, scale=scale)[0]
