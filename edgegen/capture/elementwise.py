"""Operations on one element, or on elements at one place: in whatever layout the largest operand has."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from edgegen.capture.lowering import Lowering, lowers
from edgegen.capture.passes import lessened
from edgegen.capture.values import Value, plain
from edgegen.model.states import FP16_MAX
from edgegen.rewrite.attention import MASKED

aten = torch.ops.aten

UNARY: dict[Any, Callable[..., Any]] = {
    aten.silu.default: F.silu, aten.relu.default: F.relu, aten.tanh.default: torch.tanh,
    aten.sigmoid.default: torch.sigmoid, aten.exp.default: torch.exp, aten.sin.default: torch.sin,
    aten.cos.default: torch.cos, aten.neg.default: torch.neg, aten.rsqrt.default: torch.rsqrt,
    aten.sqrt.default: torch.sqrt, aten.abs.default: torch.abs, aten.log.default: torch.log,
    aten.softplus.default: F.softplus, aten.logical_not.default: torch.logical_not,
    aten.reciprocal.default: torch.reciprocal, aten.square.default: torch.square,
    aten.hardtanh.default: F.hardtanh, aten.leaky_relu.default: F.leaky_relu, aten.elu.default: F.elu,
    aten.clamp.default: torch.clamp, aten.mish.default: F.mish, aten.floor.default: torch.floor,
    aten.bitwise_not.default: torch.bitwise_not, aten.relu6.default: F.relu6, aten.erf.default: torch.erf,
}  # fmt: skip
BINARY: dict[Any, Callable[..., Any]] = {
    aten.mul.Tensor: operator.mul, aten.div.Tensor: operator.truediv, aten.maximum.default: torch.maximum,
    aten.minimum.default: torch.minimum, aten.eq.Tensor: torch.eq, aten.ne.Tensor: torch.ne,
    aten.lt.Tensor: torch.lt, aten.le.Tensor: torch.le, aten.gt.Tensor: torch.gt, aten.ge.Tensor: torch.ge,
    aten.eq.Scalar: torch.eq, aten.ne.Scalar: torch.ne, aten.lt.Scalar: torch.lt, aten.le.Scalar: torch.le,
    aten.gt.Scalar: torch.gt, aten.ge.Scalar: torch.ge, aten.pow.Tensor_Scalar: torch.pow,
    aten.logical_and.default: torch.logical_and, aten.logical_or.default: torch.logical_or,
    aten.bitwise_and.Tensor: torch.bitwise_and, aten.bitwise_or.Tensor: torch.bitwise_or,
    aten.mul.Scalar: operator.mul, aten.div.Scalar: operator.truediv, aten.__and__.Tensor: torch.bitwise_and,
}  # fmt: skip


def unary(low: Lowering, function: Callable[..., Any], x: Value, *args: Any, **kwargs: Any) -> Value:
    return Value(low.writer.call(function, x.data, *args, **kwargs), x.dims, x.axes)


def joint(low: Lowering, function: Callable[..., Any], *operands: Any, **kwargs: Any) -> Value:
    """An operation on values and numbers that broadcast together."""
    values = [o for o in operands if isinstance(o, Value)]
    if all(v.is_constant for v in values):
        read = [low.read(o) if isinstance(o, Value) else o for o in operands]
        made = function(*read, **kwargs)
        return plain(made, made.shape)
    made, dims, axes = low.aligned(values)
    datas = iter(made)
    given = [next(datas).data if isinstance(o, Value) else o for o in operands]
    return Value(low.writer.call(function, *given, **kwargs), dims, axes)


def _enter(target: Any, function: Callable[..., Any], arity: int) -> None:
    rule = unary if arity == 1 else joint
    lowers(target)(lambda low, *args, **kwargs: rule(low, function, *args, **kwargs))


for _target, _function in UNARY.items():
    _enter(_target, _function, 1)
for _target, _function in BINARY.items():
    _enter(_target, _function, 2)


@lowers(lessened)
def lower_lessened(low: Lowering, x: Value, factor: float) -> Value:
    return joint(low, operator.mul, x, factor) if low.split else x


@lowers(aten.gelu.default)
def gelu(low: Lowering, x: Value, approximate: str = "none") -> Value:
    return unary(low, F.gelu, x, approximate=approximate)


LEAST = {True: 2.0**-14, False: 1e-7}  # that fp16 holds as a normal number; that no converter takes for zero


@lowers(aten.add.Tensor, aten.add.Scalar)
def add(low: Lowering, x: Any, y: Any, alpha: float = 1) -> Value:
    """A sum; what keeps a divisor from zero does so as a lower limit, where the form's numbers would lose it."""
    if isinstance(y, float) and 0 < y < LEAST[low.split] and low.is_divisor():
        return unary(low, torch.clamp, x, min=LEAST[low.split])
    return joint(low, operator.add, x, y if alpha == 1 else joint(low, operator.mul, y, alpha))


@lowers(aten.sub.Tensor, aten.sub.Scalar)
def sub(low: Lowering, x: Any, y: Any, alpha: float = 1) -> Value:
    return joint(low, operator.sub, x, y if alpha == 1 else joint(low, operator.mul, y, alpha))


@lowers(aten.rsub.Scalar, aten.rsub.Tensor)
def rsub(low: Lowering, x: Value, y: Any, alpha: float = 1) -> Value:
    return joint(low, operator.sub, y, x if alpha == 1 else joint(low, operator.mul, x, alpha))


@lowers(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf)
def where(low: Lowering, condition: Value, x: Any, y: Any) -> Value:
    """A choice; by a constant condition, as a sum of products, which needs no booleans."""
    x, y = (max(v, MASKED) if isinstance(v, (int, float)) else v for v in (x, y))  # minus infinity times 0 is no number
    if condition.is_constant:
        mask = Value(condition.data.float(), condition.dims, condition.axes)
        kept = Value((~condition.data).float(), condition.dims, condition.axes)
        return joint(low, operator.add, joint(low, operator.mul, mask, x), joint(low, operator.mul, kept, y))
    first, second = number(x), number(y)
    if first is not None and second is not None:  # a mask, which no runtime needs to choose by
        chosen = unary(low, torch.Tensor.float, condition)
        return joint(low, operator.add, joint(low, operator.mul, chosen, first - second), second)
    x, y = (v if isinstance(v, Value) else plain(torch.tensor(float(v)), ()) for v in (x, y))
    if any(v.is_constant and v.data.is_floating_point() for v in (x, y)):  # which a converter repeats
        chosen = unary(low, torch.Tensor.float, condition)
        other = joint(low, operator.sub, 1.0, chosen)
        parts = joint(low, operator.mul, bounded(x), chosen), joint(low, operator.mul, bounded(y), other)
        return joint(low, operator.add, *parts)
    return joint(low, torch.where, condition, x, y)


def bounded(value: Value) -> Value:
    """A constant without what stands for minus infinity, which times 0 is no number."""
    if not value.is_constant:
        return value
    return Value(torch.where(value.data < -FP16_MAX, MASKED, value.data), value.dims, value.axes)


def number(value: Any) -> float | None:
    """A number, or a constant of one element, as one that fp16 holds."""
    if isinstance(value, Value):
        return max(float(value.data), MASKED) if value.is_constant and value.data.numel() == 1 else None
    return float(value)


@lowers(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(low: Lowering, x: Value, mask: Value, value: Any) -> Value:
    return where(low, mask, value, x)


@lowers(aten.to.dtype, aten.to.dtype_layout, aten._to_copy.default)
def to(low: Lowering, x: Value, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Value:
    kind = dtype or next((a for a in args if isinstance(a, torch.dtype)), None)
    return unary(low, torch.Tensor.to, x, torch.float32 if kind is not None and kind.is_floating_point else kind)


@lowers(aten.type_as.default)
def type_as(low: Lowering, x: Value, other: Value) -> Value:
    return x


@lowers(aten.addcmul.default)
def addcmul(low: Lowering, x: Value, a: Value, b: Value, value: float = 1) -> Value:
    product = joint(low, operator.mul, a, b)
    return joint(low, operator.add, x, product if value == 1 else joint(low, operator.mul, product, value))
