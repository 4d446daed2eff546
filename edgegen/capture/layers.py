"""Operations with weights: projections, convolutions and norms, in the form of a back end."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torch.onnx.ops
from torch import Tensor, fx, nn

from edgegen.capture.elementwise import joint
from edgegen.capture.lowering import Lowering, is_scattered, lowers
from edgegen.capture.passes import rms_norm, rotary, rotate
from edgegen.capture.products import matmul
from edgegen.capture.values import Row, Value, plain, row_of, size_of
from edgegen.rewrite.layout import PRESCALE

aten = torch.ops.aten


def layer_name(low: Lowering, weight: Value) -> str | None:
    """The module that a weight belongs to, where it is the network's own."""
    name = low.writer.names.get(id(weight.data))
    return name.removesuffix(".weight") if name and name.endswith(".weight") else None


def with_weight(layer: Any, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A layer made on the meta device, given its tensors."""
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def tensor(value: Value | None) -> Tensor | None:
    return None if value is None else value.data


@lowers(aten.linear.default)
def linear(low: Lowering, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """A projection of the last dimension: a 1x1 convolution over channels, or a product of rank 2."""
    if not weight.is_constant:
        turned = weight.with_dims(weight.dims[::-1])
        made = matmul(low, x, turned)
        return made if bias is None else joint(low, torch.add, made, bias)
    outputs, inputs = weight.shape
    x = low.channels(low.whole(x))
    name = layer_name(low, weight)
    w, b = weight.data.reshape(outputs, inputs), tensor(bias)
    row = row_of(outputs)
    if low.split:
        data = conv_data(low, name, x.data, w[:, :, None, None], b, 1, 0, 1, 1)
    elif name is None:
        data = low.writer.call(F.linear, x.data, w, b)
    else:
        build = lambda: with_weight(nn.Linear(inputs, outputs, b is not None, device="meta"), w, b)  # noqa: E731
        data = low.writer.layer(name, build, x.data)
    axes = (x.axes[0], row, *x.axes[2:])
    return Value(data, (*x.dims[:-1], row), axes)


def conv_data(
    low: Lowering, name: str | None, x: fx.Node, weight: Tensor, bias: Tensor | None, *settings: Any
) -> fx.Node:
    """A convolution, as a layer where its weight has a name."""
    stride, padding, dilation, groups = settings
    if name is None:
        return low.writer.call(F.conv2d, x, weight, bias, stride, padding, dilation, groups)
    outputs, inputs, *kernel = weight.shape

    def build() -> nn.Module:
        made = nn.Conv2d(
            inputs * groups, outputs, tuple(kernel), stride, padding, dilation, groups, bias is not None, device="meta"
        )
        return with_weight(made, weight, bias)

    return low.writer.layer(name, build, x)


def listed(value: int | Sequence[int]) -> tuple[int, ...]:
    made = (value,) if isinstance(value, int) else tuple(value)
    return made * 2 if len(made) == 1 else made


@lowers(aten.conv2d.default)
def conv2d(
    low: Lowering,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    """A convolution; one of a single pixel leaves the grid folded where it is."""
    stride, padding, dilation = listed(stride), listed(padding), listed(dilation)
    outputs, kernel = weight.shape[0], weight.shape[2:]
    x, row = low.whole(x), row_of(outputs)
    settings = (stride, padding, dilation, groups)
    if (
        low.split
        and kernel == [1, 1]
        and stride == (1, 1)
        and padding == (0, 0)
        and len(x.axes) == 4
        and x.axes[1] == x.dims[1]
    ):
        data = conv_data(low, layer_name(low, weight), x.data, weight.data, tensor(bias), *settings)
        return Value(data, (x.dims[0], row, *x.dims[2:]), (x.axes[0], row, *x.axes[2:]))
    x = low.writer.moved(x, x.dims)
    data = conv_data(low, layer_name(low, weight), x.data, weight.data, tensor(bias), *settings)
    spans = zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
    grid = tuple(row_of((n + 2 * p - d * (k - 1) - 1) // s + 1) for n, k, s, p, d in spans)
    dims = (x.dims[0], row, *grid)
    return Value(data, dims, dims)


# ---- norms ----


@lowers(aten.layer_norm.default)
def layer_norm(
    low: Lowering,
    x: Value,
    shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> Value:
    if len(shape) != 1:
        made = F.layer_norm
        return plain(low.writer.call(made, low.read(x), list(shape), tensor(weight), tensor(bias), eps), x.shape)
    return normed(low, x, weight, bias, eps, centred=True)


@lowers(rms_norm, aten.rms_norm.default)
def lower_rms_norm(
    low: Lowering, x: Value, shape: Sequence[int], weight: Value | None = None, eps: float | None = None
) -> Value:
    return normed(low, x, weight, None, torch.finfo(torch.float32).eps if eps is None else eps, centred=False)


def normed(low: Lowering, x: Value, weight: Value | None, bias: Value | None, eps: float, centred: bool) -> Value:
    """A norm over the last dimension."""
    x = low.whole(x)
    row = x.dims[-1]
    if not low.split:
        return normed_last(low, x, weight, bias, eps, centred)
    if is_scattered(x):  # tokens of a grid: folded once, here, and not for the norm and for what it is added to
        x = low.writer.moved(x, low.gathered(x, x.dims))
    if len(x.axes) == 4 and x.axes[1] != row and x.axes[1][-len(row) :] == row:
        return normed_heads(low, x, weight, bias, eps, centred)
    if not (len(x.axes) == 4 and x.axes[1] == row):
        x = low.channels(x)
    call, data = low.writer.call, x.data
    if centred:
        data = call(torch.sub, data, call(torch.mean, data, 1, True))
    data = call(torch.mul, data, PRESCALE)
    mean = call(torch.mean, call(torch.mul, data, data), 1, True)
    data = call(torch.mul, data, call(torch.rsqrt, call(torch.add, mean, eps * PRESCALE**2)))
    return affine(low, Value(data, x.dims, x.axes), weight, bias)


def affine(low: Lowering, x: Value, weight: Value | None, bias: Value | None) -> Value:
    x = x if weight is None else joint(low, torch.mul, x, weight)
    return x if bias is None else joint(low, torch.add, x, bias)


def normed_heads(low: Lowering, x: Value, weight: Value | None, bias: Value | None, eps: float, centred: bool) -> Value:
    """A norm of each head of a channel axis (H*E) without a reshape: grouped convolutions sum and spread."""
    call, size = low.writer.call, size_of(x.dims[-1])
    heads = size_of(x.axes[1]) // size
    gather = torch.full((heads, size, 1, 1), 1 / size)
    spread = torch.ones(heads * size, 1, 1, 1)
    data = x.data
    if centred:
        mean = call(F.conv2d, data, gather, None, 1, 0, 1, heads)
        data = call(torch.sub, data, call(F.conv2d, mean, spread, None, 1, 0, 1, heads))
    squares = call(torch.mul, call(torch.mul, data, PRESCALE**2), data)
    root = call(torch.rsqrt, call(torch.add, call(F.conv2d, squares, gather, None, 1, 0, 1, heads), eps * PRESCALE**2))
    if weight is not None and len(weight.dims) == 1:
        spread = (weight.data * PRESCALE).repeat(heads)[:, None, None, None]
        weight = None
    else:
        spread = spread * PRESCALE
    data = call(torch.mul, data, call(F.conv2d, root, spread, None, 1, 0, 1, heads))
    return affine(low, Value(data, x.dims, x.axes), weight, bias)


def normed_last(low: Lowering, x: Value, weight: Value | None, bias: Value | None, eps: float, centred: bool) -> Value:
    """A norm over the last axis: one operation, or products that XNNPACK takes."""
    row = x.dims[-1]
    if x.axes[-1] != row:
        cut = tuple(part for axis in x.axes for part in without(axis, row) if part)
        x = low.writer.moved(x, (*cut, row)) if row in cut_rows(x.axes, row) else low.channels(x)
    call, size = low.writer.call, size_of(row)
    w, b = tensor(weight), tensor(bias)
    if low.fused:
        norm = (
            (F.layer_norm, [size], w, b, eps)
            if centred
            else (F.rms_norm, [size], torch.ones(size) if w is None else w, eps)
        )
        return Value(call(norm[0], x.data, *norm[1:]), x.dims, x.axes)
    mean, data = torch.full((1, size), 1 / size), x.data
    if centred:
        data = call(torch.sub, data, call(F.linear, data, mean))
    root = call(torch.rsqrt, call(torch.add, call(F.linear, call(torch.mul, data, data), mean), eps))
    return affine(low, Value(call(torch.mul, data, root), x.dims, x.axes), weight, bias)


def without(axis: Row, row: Row) -> tuple[Row, ...]:
    """An axis without the row it ends with."""
    return (axis[: len(axis) - len(row)],) if axis[len(axis) - len(row) :] == row else (axis,)


def cut_rows(axes: Any, row: Row) -> list[Row]:
    """The row, where the last axis ends with it."""
    return [row] if axes[-1][len(axes[-1]) - len(row) :] == row else []


@lowers(aten.group_norm.default)
def group_norm(
    low: Lowering,
    x: Value,
    groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> Value:
    data = low.read(low.whole(x))
    made = low.writer.call(F.group_norm, data, groups, tensor(weight), tensor(bias), eps)
    return Value(made, x.dims, x.dims)


# ---- rotation ----


@lowers(rotate)
def lower_rotate(low: Lowering, x: Value, order: Sequence[int], signs: Sequence[int]) -> Value:
    """The last dimension permuted and signed, as a product with a constant matrix: a quarter turn of pairs."""
    x = low.whole(x)
    row, size = x.dims[-1], len(order)
    turn = torch.zeros(size, size)
    turn[torch.arange(size), torch.tensor(order)] = torch.tensor(signs, dtype=torch.float32)
    if low.split:
        if not (len(x.axes) == 4 and x.axes[1][-len(row) :] == row):
            x = low.channels(x)
        heads = size_of(x.axes[1]) // size
        data = low.writer.call(F.conv2d, x.data, turn.repeat(heads, 1)[:, :, None, None], None, 1, 0, 1, heads)
        return Value(data, x.dims, x.axes)
    if x.axes[-1] != row:
        cut = tuple(part for axis in x.axes for part in without(axis, row) if part)
        x = low.writer.moved(x, (*cut, row)) if row in cut_rows(x.axes, row) else low.channels(x)
    return Value(low.writer.call(F.linear, x.data, turn), x.dims, x.axes)


@lowers(rotary)
def lower_rotary(low: Lowering, x: Value, cos: Value, sin: Value, order: Sequence[int], signs: Sequence[int]) -> Value:
    """Rotary positions: one operation where the runtime has it, otherwise two products."""
    found = rotary_tables(x, cos.data, sin.data, list(order), list(signs)) if low.fused else None
    if found is None:
        turned = lower_rotate(low, x, order, signs)
        return joint(low, operator.add, joint(low, operator.mul, x, cos), joint(low, operator.mul, turned, sin))
    at, tables, interleaved = found
    x = low.whole(x)
    heads = tuple(a for i, row in enumerate(x.dims[:-1]) if i != at for a in row)
    x = low.writer.moved(x, ((), x.dims[at], (*heads, *x.dims[-1])))
    data = low.writer.call(fused_rotary, x.data, *tables, interleaved, size_of(heads))
    return Value(data, x.dims, x.axes)


def rotary_tables(
    x: Value, cos: Tensor, sin: Tensor, order: list[int], signs: list[int]
) -> tuple[int, tuple[Tensor, Tensor], bool] | None:
    """The dimension of positions, tables (1, S, E/2), and whether pairs are neighbours; None for any other rotation."""
    size, half = len(order), len(order) // 2
    neighbours = order == [i ^ 1 for i in range(size)] and signs == [-1, 1] * half
    halves = order == [(i + half) % size for i in range(size)] and signs == [-1] * half + [1] * half
    shape = [1] * (len(x.dims) - cos.ndim) + list(cos.shape)
    places = [i for i, n in enumerate(shape[:-1]) if n > 1]
    if not (neighbours or halves) or len(places) != 1 or cos.shape != sin.shape or shape[-1] != size or x.dims[0]:
        return None
    both = [t.reshape(1, -1, size) for t in (cos.float(), sin.float())]
    pairs = [(t[..., ::2], t[..., 1::2]) if neighbours else (t[..., :half], t[..., half:]) for t in both]
    if not all(torch.equal(a, b) for a, b in pairs):
        return None
    return places[0], (pairs[0][0].contiguous(), pairs[1][0].contiguous()), neighbours


def fused_rotary(x: Any, cos: Any, sin: Any, interleaved: bool, heads: int) -> Any:
    """ONNX's RotaryEmbedding of opset 23."""
    return torch.onnx.ops.rotary_embedding(x, cos, sin, interleaved=interleaved, num_heads=heads)


@lowers(aten.embedding.default)
def embedding(low: Lowering, weight: Value, ids: Value, *settings: Any) -> Value:
    """Rows of a table, as they are gathered."""
    ids = low.whole(ids)
    row = row_of(weight.shape[1])
    data = low.writer.call(F.embedding, low.read(ids), weight.data)
    return Value(data, (*ids.dims, row), (*ids.dims, row))
