"""What each MIL operation computes, and the table that names them.

An implementation is split in two. Its *plan* runs once, when the schedule is made: it reads the constant parameters
of one operation and returns the function that runs at every evaluation, from tensors to tensors. Floating-point
tensors arrive as fp32 whatever the program declares; rounding to fp16 is the caller's.
Semantics follow the operation definitions in coremltools 9.0 (converters/mil/mil/ops/defs), cited as `MIL`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgegen.errors import EdgegenError
from edgegen.runtime.mil_file import Constant, OperationRecord, ProgramFile, TensorInfo

REQUIRED = object()

Kernel = Callable[..., Any]  # tensors -> Tensor, or a tuple of them for an operation with several outputs


class Call:
    """One operation of a program as its plan sees it: constant parameters by value, the others by declared shape."""

    def __init__(self, program: ProgramFile, record: OperationRecord):
        self.program = program
        self.record = record
        self.type = record.type
        self.outputs = record.outputs

    def has(self, parameter: str) -> bool:
        return bool(self.record.inputs.get(parameter))

    def constant(self, parameter: str) -> Constant | None:
        """The constant bound to `parameter`, or None when it is absent or computed."""
        bound = self.record.inputs.get(parameter, ())
        if len(bound) != 1:
            return None
        return bound[0] if isinstance(bound[0], Constant) else self.program.constants.get(bound[0])

    def value(self, parameter: str, default: Any = REQUIRED) -> Any:
        """The constant value of `parameter` as numpy array or str; `default` when the operation has none."""
        constant = self.constant(parameter)
        if constant is not None:
            return constant.array()
        if self.has(parameter) or default is REQUIRED:
            how = "computes its" if self.has(parameter) else "has no"
            raise EdgegenError(
                f"Operation {self.type} '{self.record.name}' {how} parameter '{parameter}', which must be constant.",
                "Export with static shapes.",
            )
        return default

    def ints(self, parameter: str, default: Any = REQUIRED) -> Any:
        """A constant integer vector as a tuple of int."""
        value = self.value(parameter, default)
        return value if value is None else tuple(int(v) for v in np.reshape(value, -1))

    def integer(self, parameter: str, default: Any = REQUIRED) -> int:
        return int(np.reshape(self.value(parameter, default), -1)[0])

    def number(self, parameter: str, default: Any = REQUIRED) -> float:
        return float(np.reshape(self.value(parameter, default), -1)[0])

    def flag(self, parameter: str, default: bool) -> bool:
        return bool(np.reshape(self.value(parameter, default), -1)[0])

    def infos(self, parameter: str) -> tuple[TensorInfo, ...]:
        """What the program declares about each tensor bound to `parameter`."""
        bound = self.record.inputs.get(parameter, ())
        return tuple(b.info if isinstance(b, Constant) else self.program.values[b] for b in bound)

    def shape(self, parameter: str) -> tuple[int, ...]:
        """The declared shape of `parameter`; EdgegenError unless it is static."""
        return self.infos(parameter)[0].sizes()

    def rank(self, parameter: str = "x") -> int:
        return len(self.infos(parameter)[0].shape)

    def axis(self, parameter: str, default: Any = REQUIRED, of: str = "x") -> int:
        """A constant axis, counted from the front."""
        return self.integer(parameter, default) % max(self.rank(of), 1)


@dataclass(frozen=True)
class Implementation:
    """How one operation type is evaluated.

    `data`: the parameters handed to the run function, in order; an absent one is None, `*name` spreads a tuple.
    `exact`: every output element is an input element, so nothing is to be rounded.
    """

    data: tuple[str, ...]
    plan: Callable[[Call], Kernel]
    exact: bool


OPERATIONS: dict[str, Implementation] = {}


def operation(*names: str, data: str = "x", exact: bool = False) -> Callable:
    """Enters a plan in the table under `names`."""

    def enter(plan: Callable[[Call], Kernel]) -> Callable[[Call], Kernel]:
        for name in names:
            OPERATIONS[name] = Implementation(tuple(data.split()), plan, exact)
        return plan

    return enter


def elementwise(functions: dict[str, Kernel], data: str = "x") -> None:
    """Enters functions that have no parameters besides their tensors."""
    for name, function in functions.items():
        operation(name, data=data)(lambda call, function=function: function)


# --- elementwise, one tensor ---------------------------------------------------------------------------------------

elementwise({
    "abs": torch.abs, "ceil": torch.ceil, "floor": torch.floor, "round": torch.round, "sign": torch.sign,
    "sqrt": torch.sqrt, "square": torch.square, "exp": torch.exp, "exp2": torch.exp2, "erf": torch.erf,
    "sin": torch.sin, "cos": torch.cos, "tan": torch.tan, "asin": torch.asin, "acos": torch.acos, "atan": torch.atan,
    "sinh": torch.sinh, "cosh": torch.cosh, "tanh": torch.tanh, "atanh": torch.atanh,
    "sigmoid": torch.sigmoid, "silu": F.silu, "relu": torch.relu, "relu6": F.relu6, "softplus": F.softplus,
    "softsign": F.softsign, "neg": torch.neg, "logical_not": torch.logical_not,
})  # fmt: skip
# `cast` changes only the declared dtype, which the caller applies (to an integer: towards zero)
operation("cast")(lambda call: lambda x: x)
operation("identity", exact=True)(lambda call: lambda x: x)


@operation("inverse", "log", "rsqrt")
def _with_epsilon(call: Call) -> Kernel:
    epsilon = call.number("epsilon", {"inverse": 1e-4, "log": 1e-45, "rsqrt": 1e-12}[call.type])
    function = {"inverse": torch.reciprocal, "log": torch.log, "rsqrt": torch.rsqrt}[call.type]
    return lambda x: function(x + epsilon)


@operation("gelu")
def _gelu(call: Call) -> Kernel:
    mode = call.value("mode", "EXACT")
    if mode == "SIGMOID_APPROXIMATION":
        return lambda x: x * torch.sigmoid(1.702 * x)
    approximate = {"EXACT": "none", "TANH_APPROXIMATION": "tanh"}[mode]
    return lambda x: F.gelu(x, approximate=approximate)


@operation("clip")
def _clip(call: Call) -> Kernel:
    low, high = call.number("alpha"), call.number("beta")
    return lambda x: torch.clamp(x, low, high)


ALPHA = {
    "elu": lambda x, a: torch.where(x > 0, x, a * torch.expm1(torch.clamp(x, max=0.0))),
    "leaky_relu": lambda x, a: torch.where(x >= 0, x, a * x),
    "threshold": lambda x, a: torch.clamp(x, min=a),
    "thresholded_relu": lambda x, a: torch.where(x >= a, x, torch.zeros_like(x)),
}
ALPHA_BETA = {
    "clamped_relu": lambda x, a, b: torch.clamp(torch.where(x >= 0, x, a * x), max=b),
    "linear_activation": lambda x, a, b: a * x + b,
    "scaled_tanh": lambda x, a, b: a * torch.tanh(b * x),
    "sigmoid_hard": lambda x, a, b: torch.clamp(a * x + b, 0.0, 1.0),
}


@operation(*ALPHA)
def _with_alpha(call: Call) -> Kernel:
    function, alpha = ALPHA[call.type], call.number("alpha")
    return lambda x: function(x, alpha)


@operation(*ALPHA_BETA)
def _with_alpha_and_beta(call: Call) -> Kernel:
    function, alpha, beta = ALPHA_BETA[call.type], call.number("alpha"), call.number("beta")
    return lambda x: function(x, alpha, beta)


def _per_channel(vector: Tensor, rank: int) -> Tensor:
    return vector.reshape(-1, *[1] * (rank - 2))  # (C, 1, ...) broadcasts over (n, C, ...)


@operation("prelu", data="x alpha")
def _prelu(call: Call) -> Kernel:
    return lambda x, alpha: torch.where(x >= 0, x, _per_channel(alpha, x.dim()) * x)


@operation("softplus_parametric", data="x alpha beta")
def _softplus_parametric(call: Call) -> Kernel:
    return lambda x, a, b: _per_channel(a, x.dim()) * F.softplus(_per_channel(b, x.dim()) * x)


@operation("softmax")
def _softmax(call: Call) -> Kernel:
    axis = call.integer("axis", -1)
    return lambda x: torch.softmax(x, axis)


@operation("cumsum")
def _cumsum(call: Call) -> Kernel:
    axis = call.axis("axis", 0)
    exclusive, reverse = call.flag("exclusive", False), call.flag("reverse", False)

    def run(x: Tensor) -> Tensor:
        x = x.flip(axis) if reverse else x
        total = torch.cumsum(x, axis)
        total = total - x if exclusive else total
        return total.flip(axis) if reverse else total

    return run


# --- elementwise, several tensors ----------------------------------------------------------------------------------

elementwise({
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "real_div": torch.true_divide, "pow": torch.pow,
    "floor_div": torch.floor_divide, "mod": torch.remainder, "maximum": torch.maximum, "minimum": torch.minimum,
    "equal": torch.eq, "not_equal": torch.ne, "greater": torch.gt, "greater_equal": torch.ge, "less": torch.lt,
    "less_equal": torch.le, "logical_and": torch.logical_and, "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}, data="x y")  # fmt: skip


@operation("select", data="cond a b", exact=True)
def _select(call: Call) -> Kernel:
    return lambda cond, a, b: torch.where(cond.bool(), a, b)


# --- reductions ----------------------------------------------------------------------------------------------------


def _prod(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


REDUCTIONS: dict[str, Kernel] = {
    "reduce_mean": lambda x, axes, keep: torch.mean(x.float(), axes, keep),
    "reduce_sum": torch.sum,
    "reduce_max": torch.amax,
    "reduce_min": torch.amin,
    "reduce_prod": _prod,
    "reduce_l1_norm": lambda x, axes, keep: torch.sum(x.abs(), axes, keep),
    "reduce_l2_norm": lambda x, axes, keep: torch.sqrt(torch.sum(torch.square(x), axes, keep)),
    "reduce_log_sum": lambda x, axes, keep: torch.log(torch.sum(x, axes, keep)),
    "reduce_log_sum_exp": lambda x, axes, keep: torch.logsumexp(x.float(), axes, keep),
    "reduce_sum_square": lambda x, axes, keep: torch.sum(torch.square(x), axes, keep),
}


@operation(*REDUCTIONS)
def _reduce(call: Call) -> Kernel:
    function, rank = REDUCTIONS[call.type], call.rank()
    axes = tuple(axis % rank for axis in call.ints("axes", None) or range(rank))
    keep = call.flag("keep_dims", False)
    return lambda x: function(x, axes, keep)


@operation("reduce_argmax", "reduce_argmin")
def _reduce_arg(call: Call) -> Kernel:
    function = torch.argmax if call.type == "reduce_argmax" else torch.argmin
    axis, keep = call.integer("axis", -1), call.flag("keep_dims", False)
    return lambda x: function(x, axis, keep)


@operation("argsort")
def _argsort(call: Call) -> Kernel:
    axis, ascending = call.integer("axis", -1), call.flag("ascending", False)
    return lambda x: torch.argsort(x, dim=axis, descending=not ascending, stable=True)


@operation("topk")
def _topk(call: Call) -> Kernel:
    count, axis, ascending = call.integer("k", 1), call.axis("axis", -1), call.flag("ascending", False)
    indices = call.flag("return_indices", True)

    def run(x: Tensor) -> Any:
        values, order = torch.sort(x, dim=axis, descending=not ascending, stable=True)
        count_ = x.shape[axis] if count == -1 else count
        found = values.narrow(axis, 0, count_), order.narrow(axis, 0, count_)
        return found if indices else found[0]

    return run


# --- products ------------------------------------------------------------------------------------------------------


@operation("linear", data="x weight bias")
def _linear(call: Call) -> Kernel:
    return F.linear


@operation("matmul", data="x y")
def _matmul(call: Call) -> Kernel:
    transpose_x = call.flag("transpose_x", False) and call.rank("x") > 1
    transpose_y = call.flag("transpose_y", False) and call.rank("y") > 1

    def run(x: Tensor, y: Tensor) -> Tensor:
        x = x.transpose(-1, -2) if transpose_x else x
        y = y.transpose(-1, -2) if transpose_y else y
        return torch.matmul(x, y)

    return run


@operation("einsum", data="*values")
def _einsum(call: Call) -> Kernel:
    equation = call.value("equation")
    return lambda *values: torch.einsum(equation, *values)


@operation("scaled_dot_product_attention", data="query key value attn_mask")
def _attention(call: Call) -> Kernel:
    def run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, *, L, S)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        return torch.softmax(scores, -1) @ v  # (B, *, L, EV)

    return run


# --- convolution and pooling ---------------------------------------------------------------------------------------

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}

Pads = tuple[tuple[int, int], ...]  # (before, after) for each spatial axis


def _pads(call: Call, kernel: tuple[int, ...], strides: tuple[int, ...]) -> Pads:
    """Padding that pad_type asks for; `kernel` is the dilated one. `same_lower` puts the odd element before."""
    pad_type = call.value("pad_type", "valid")
    if pad_type == "valid":
        return ((0, 0),) * len(kernel)
    if pad_type == "custom":
        flat = call.ints("pad", (0,) * 2 * len(kernel))
        return tuple(zip(flat[::2], flat[1::2], strict=True))
    pads = []
    for size, k, stride in zip(call.shape("x")[2:], kernel, strides, strict=True):
        total = max(0, (math.ceil(size / stride) - 1) * stride + k - size)
        small = total // 2
        pads.append((total - small, small) if pad_type == "same_lower" else (small, total - small))
    return tuple(pads)


def _flat(pads: Pads) -> list[int]:
    return [n for pair in reversed(pads) for n in pair]  # F.pad counts from the last axis


@operation("conv", data="x weight bias")
def _conv(call: Call) -> Kernel:
    spatial = call.rank() - 2
    strides = call.ints("strides", (1,) * spatial)
    dilations = call.ints("dilations", (1,) * spatial)
    groups = call.integer("groups", 1)
    kernel = tuple((k - 1) * d + 1 for k, d in zip(call.shape("weight")[2:], dilations, strict=True))
    pads, function = _pads(call, kernel, strides), CONV[spatial]
    if all(before == after for before, after in pads):
        padding = tuple(before for before, _ in pads)
        return lambda x, w, b: function(x, w, b, strides, padding, dilations, groups)
    flat = _flat(pads)
    return lambda x, w, b: function(F.pad(x, flat), w, b, strides, 0, dilations, groups)


@operation("conv_transpose", data="x weight bias")
def _conv_transpose(call: Call) -> Kernel:
    """The full transposed convolution, cropped to the size MIL asks for (zero-extended where that is larger)."""
    spatial = call.rank() - 2
    strides = call.ints("strides", (1,) * spatial)
    dilations = call.ints("dilations", (1,) * spatial)
    groups, function = call.integer("groups", 1), CONV_TRANSPOSE[spatial]
    pad_type, wanted = call.value("pad_type", "valid"), call.ints("output_shape", None)
    kernel = [(k - 1) * d + 1 for k, d in zip(call.shape("weight")[2:], dilations, strict=True)]
    pad = call.ints("pad", (0,) * 2 * spatial) if pad_type == "custom" else (0,) * 2 * spatial
    crops, extra = [], []
    for i, size in enumerate(call.shape("x")[2:]):
        full = (size - 1) * strides[i] + kernel[i]
        target = size * strides[i] if pad_type == "same" else full - pad[2 * i] - pad[2 * i + 1]
        target = wanted[2 + i] if wanted else target
        before = max(0, full - target) // 2 if pad_type == "same" else pad[2 * i]
        extra.append(max(0, before + target - full))
        crops.append(slice(before, before + target))
    index = (slice(None), slice(None), *crops)
    after = _flat(tuple((0, n) for n in extra)) if any(extra) else None

    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = function(x, weight, None, strides, 0, 0, groups, dilations)
        y = (F.pad(y, after) if after else y)[index]
        return y if bias is None else y + _per_channel(bias, y.dim())

    return run


def _ceil_extension(call: Call, kernel: tuple[int, ...], strides: tuple[int, ...], pads: Pads) -> list[int]:
    """Elements past the padded end that ceil_mode's last window covers (MIL pool: ceil_mode)."""
    extension = []
    for size, k, s, (before, after) in zip(call.shape("x")[2:], kernel, strides, pads, strict=True):
        windows = -(-(size + before + after - k) // s) + 1
        if (windows - 1) * s >= size + before and before + after > 0:
            windows -= 1
        extension.append(max(0, (windows - 1) * s + k - size - before - after))
    return extension


@operation("max_pool", "avg_pool", "l2_pool")
def _pool(call: Call) -> Kernel:
    kernel = call.ints("kernel_sizes")
    spatial = len(kernel)
    strides = call.ints("strides", (1,) * spatial)
    pads = _pads(call, kernel, strides)
    extension = _ceil_extension(call, kernel, strides, pads) if call.flag("ceil_mode", False) else [0] * spatial
    beyond = _flat(tuple((0, n) for n in extension))
    flat = [a + b for a, b in zip(_flat(pads), beyond, strict=True)]
    if call.type == "max_pool":
        return lambda x: MAX_POOL[spatial](F.pad(x, flat, value=-math.inf), kernel, strides)
    average = AVG_POOL[spatial]
    if call.type == "l2_pool":
        return lambda x: torch.sqrt(average(F.pad(x * x, flat), kernel, strides) * math.prod(kernel))
    inside = torch.ones(1, 1, *call.shape("x")[2:])
    exclude = call.flag("exclude_padding_from_average", False)
    counted = F.pad(inside, flat) if exclude else F.pad(F.pad(inside, _flat(pads), value=1.0), beyond)
    share = average(counted, kernel, strides)  # the part of each window that counts
    return lambda x: average(F.pad(x, flat), kernel, strides) / share


# --- normalisation -------------------------------------------------------------------------------------------------


@operation("batch_norm", data="x mean variance gamma beta")
def _batch_norm(call: Call) -> Kernel:
    epsilon, rank = call.number("epsilon", 1e-5), call.rank()

    def run(x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        scale = torch.rsqrt(variance + epsilon)
        scale = scale if gamma is None else scale * gamma
        shift = -mean * scale if beta is None else beta - mean * scale
        return x * _per_channel(scale, rank) + _per_channel(shift, rank)

    return run


def _normalize(x: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    centred = x - torch.mean(x, axes, True)
    return centred * torch.rsqrt(torch.mean(centred * centred, axes, True) + epsilon)


@operation("instance_norm", data="x gamma beta")
def _instance_norm(call: Call) -> Kernel:
    epsilon, rank = call.number("epsilon", 1e-5), call.rank()
    axes = tuple(range(2, rank))

    def run(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        y = _normalize(x, axes, epsilon)
        y = y if gamma is None else y * _per_channel(gamma, rank)
        return y if beta is None else y + _per_channel(beta, rank)

    return run


@operation("layer_norm", data="x gamma beta")
def _layer_norm(call: Call) -> Kernel:
    epsilon, rank = call.number("epsilon", 1e-5), call.rank()
    axes = tuple(sorted(axis % rank for axis in call.ints("axes", None) or range(rank)))
    kept = [size if axis in axes else 1 for axis, size in enumerate(call.shape("x"))]

    def run(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        y = _normalize(x, axes, epsilon)
        y = y if gamma is None else y * gamma.reshape(kept)
        return y if beta is None else y + beta.reshape(kept)

    return run


@operation("l2_norm")
def _l2_norm(call: Call) -> Kernel:
    epsilon = call.number("epsilon", 1e-6)
    return lambda x: x * torch.rsqrt(torch.sum(x * x, (-3, -2, -1), True) + epsilon)


@operation("local_response_norm")
def _local_response_norm(call: Call) -> Kernel:
    size, alpha = call.integer("size"), call.number("alpha", 1e-4)
    beta, k = call.number("beta", 0.75), call.number("k", 1.0)
    return lambda x: F.local_response_norm(x, size, alpha, beta, k)
