"""Each operation of the MIL evaluator against numpy, scipy and coremltools' own value inference, on saved packages."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Function, types
from mil_packages import IOS17, IOS18, evaluate, integers, normal, positive, rng


@dataclass
class Case:
    """One operation: arrays in, MIL variables out, and what numpy says."""

    name: str
    arrays: Sequence[np.ndarray]
    build: Callable[..., Any]
    expect: Any  # arrays -> array or tuple of arrays; or the array
    tolerance: float = 2e-6  # of the largest reference value

    def expected(self) -> tuple[np.ndarray, ...]:
        value = self.expect(*self.arrays) if callable(self.expect) else self.expect
        return tuple(np.asarray(v) for v in (value if isinstance(value, tuple) else (value,)))


def run_cases(path, cases: list[Case], target=IOS17) -> dict[str, tuple[np.ndarray, ...]]:
    """All cases as one program; bool results travel as int32, which a package can return."""
    feeds = {f"x{i}_{j}": array for i, case in enumerate(cases) for j, array in enumerate(case.arrays)}

    def build(**variables):
        outputs = {}
        for i, case in enumerate(cases):
            result = case.build(*[variables[f"x{i}_{j}"] for j in range(len(case.arrays))])
            for k, variable in enumerate(result if isinstance(result, (tuple, list)) else (result,)):
                cast = mb.cast(x=variable, dtype="int32") if variable.dtype == types.bool else variable
                outputs[f"y{i}_{k}"] = mb.identity(x=cast)
        return outputs

    results = evaluate(path, feeds, build, target)
    return {case.name: tuple(results[f"y{i}_{k}"] for k in range(len(case.expected()))) for i, case in enumerate(cases)}


def check(case: Case, results: tuple[np.ndarray, ...]) -> None:
    for expected, result in zip(case.expected(), results, strict=True):
        assert result.shape == expected.shape
        assert np.issubdtype(result.dtype, np.floating) == np.issubdtype(expected.dtype, np.floating)
        if not np.issubdtype(result.dtype, np.floating):
            np.testing.assert_array_equal(result, expected)
            continue
        scale = np.abs(expected[np.isfinite(expected)]).max(initial=1e-3)
        np.testing.assert_allclose(result, expected, rtol=0, atol=case.tolerance * scale)


# --- the cases, by family ------------------------------------------------------------------------------------------


def unary_cases() -> list[Case]:
    x, p, unit = normal(2, 3, 5), positive(4, 7), rng.uniform(-0.9, 0.9, (3, 4)).astype(np.float32)
    half = np.array([-2.5, -1.5, -0.5, -0.2, 0.0, 0.5, 0.7, 1.5, 2.5], np.float32)
    sigmoid, erf = scipy.special.expit, scipy.special.erf
    simple = {
        "abs": (x, np.abs), "ceil": (x, np.ceil), "floor": (x, np.floor), "round": (half, np.rint),
        "sign": (half, np.sign), "square": (x, np.square), "exp": (x, np.exp), "exp2": (x, np.exp2), "erf": (x, erf),
        "sqrt": (p, np.sqrt), "sin": (x, np.sin), "cos": (x, np.cos), "tan": (unit, np.tan), "asin": (unit, np.arcsin),
        "acos": (unit, np.arccos), "atan": (x, np.arctan), "sinh": (x, np.sinh), "cosh": (x, np.cosh),
        "tanh": (x, np.tanh), "atanh": (unit, np.arctanh), "sigmoid": (x, sigmoid),
        "silu": (x, lambda v: v * sigmoid(v)),
        "relu": (x, lambda v: np.maximum(v, 0)), "relu6": (4 * x, lambda v: np.clip(v, 0, 6)),
        "softplus": (5 * x, lambda v: np.logaddexp(v, 0)), "softsign": (x, lambda v: v / (1 + np.abs(v))),
        "identity": (x, lambda v: v),
    }  # fmt: skip
    cases = [
        Case(name, [array], lambda v, op=getattr(mb, name): op(x=v), expect) for name, (array, expect) in simple.items()
    ]
    for eps in (1e-3, 0.25):
        cases += [
            Case(f"rsqrt {eps}", [p], lambda v, e=eps: mb.rsqrt(x=v, epsilon=e), lambda v, e=eps: (v + e) ** -0.5),
            Case(f"log {eps}", [p], lambda v, e=eps: mb.log(x=v, epsilon=e), lambda v, e=eps: np.log(v + e)),
            Case(f"inverse {eps}", [p], lambda v, e=eps: mb.inverse(x=v, epsilon=e), lambda v, e=eps: 1 / (v + e)),
        ]
    cases += [
        Case("rsqrt default", [p], lambda v: mb.rsqrt(x=v), lambda v: (v + 1e-12) ** -0.5),
        Case("inverse default", [p], lambda v: mb.inverse(x=v), lambda v: 1 / (v + 1e-4)),
    ]
    tanh_form = lambda v: 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))  # noqa: E731
    for mode, expect in (
        ("EXACT", lambda v: 0.5 * v * (1 + erf(v / np.sqrt(2)))),
        ("TANH_APPROXIMATION", tanh_form),
        ("SIGMOID_APPROXIMATION", lambda v: v * sigmoid(1.702 * v)),
    ):
        cases.append(Case(f"gelu {mode}", [x], lambda v, m=mode: mb.gelu(x=v, mode=m), expect))
    a, b = 0.3, 0.7
    for name, expect in (
        ("clip", lambda v: np.clip(v, a, b)),
        ("clamped_relu", lambda v: np.minimum(np.where(v >= 0, v, a * v), b)),
        ("linear_activation", lambda v: a * v + b),
        ("scaled_tanh", lambda v: a * np.tanh(b * v)),
        ("sigmoid_hard", lambda v: np.clip(a * v + b, 0, 1)),
    ):
        cases.append(Case(name, [2 * x], lambda v, op=getattr(mb, name): op(x=v, alpha=a, beta=b), expect))
    for name, expect in (
        ("elu", lambda v: np.where(v > 0, v, a * np.expm1(v))),
        ("leaky_relu", lambda v: np.where(v >= 0, v, a * v)),
        ("threshold", lambda v: np.maximum(v, a)),
        ("thresholded_relu", lambda v: np.where(v >= a, v, 0)),
    ):
        cases.append(Case(name, [x], lambda v, op=getattr(mb, name): op(x=v, alpha=a), expect))
    alpha, beta = positive(3), positive(3)
    cases += [
        Case("prelu", [normal(2, 3, 4, 5)], lambda v: mb.prelu(x=v, alpha=alpha),
             lambda v: np.where(v >= 0, v, alpha[:, None, None] * v)),
        Case("softplus_parametric", [x], lambda v: mb.softplus_parametric(x=v, alpha=alpha, beta=beta),
             lambda v: alpha[:, None] * np.logaddexp(beta[:, None] * v, 0)),
        Case("logical_not", [x], lambda v: mb.logical_not(x=mb.greater(x=v, y=0.0)), lambda v: (v <= 0).astype(int)),
        Case("cast to int", [3 * x], lambda v: mb.cast(x=v, dtype="int32"), lambda v: np.trunc(v).astype(np.int32)),
        Case("cast to bool", [half], lambda v: mb.cast(x=v, dtype="bool"), lambda v: (v != 0).astype(int)),
        Case("cast from int", [integers(-9, 9, 5)], lambda v: mb.cast(x=v, dtype="fp32"), lambda v: v.astype(float)),
        Case("cast to fp16", [x], lambda v: mb.cast(x=mb.cast(x=v, dtype="fp16"), dtype="fp32"),
             lambda v: v.astype(np.float16).astype(np.float32), 0.0),
    ]  # fmt: skip
    for axis in (0, 1, -1):
        cases.append(Case(f"softmax {axis}", [4 * x], lambda v, a=axis: mb.softmax(x=v, axis=a),
                          lambda v, a=axis: scipy.special.softmax(v, axis=a)))  # fmt: skip
    for exclusive, reverse in itertools.product((False, True), repeat=2):

        def cumsum(v, exclusive=exclusive, reverse=reverse):
            v = np.flip(v, 1) if reverse else v
            total = np.cumsum(v, 1) - (v if exclusive else 0)
            return np.flip(total, 1) if reverse else total

        cases.append(Case(
            f"cumsum {exclusive} {reverse}", [x],
            lambda v, e=exclusive, r=reverse: mb.cumsum(x=v, axis=1, exclusive=e, reverse=r), cumsum,
        ))  # fmt: skip
    return cases


def binary_cases() -> list[Case]:
    pairs = [((2, 3, 4), (2, 3, 4)), ((2, 1, 4), (3, 1)), ((4,), (2, 3, 4))]
    functions = {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "real_div": np.true_divide, "maximum": np.maximum,
        "minimum": np.minimum, "floor_div": np.floor_divide, "mod": np.mod, "equal": np.equal,
        "not_equal": np.not_equal, "greater": np.greater, "greater_equal": np.greater_equal, "less": np.less,
        "less_equal": np.less_equal,
    }  # fmt: skip
    cases = []
    for (name, function), (i, (sx, sy)) in itertools.product(functions.items(), enumerate(pairs)):
        x, y = np.round(2 * normal(*sx), 1), np.round(2 * normal(*sy), 1) + np.float32(0.05)
        x[..., :1] = 0.05  # so that some are equal
        expect = lambda a, b, f=function: _no_bool(f(a, b))  # noqa: E731
        cases.append(Case(f"{name} {i}", [x, y], lambda a, b, op=getattr(mb, name): op(x=a, y=b), expect, 1e-5))
    a, b = integers(-9, 9, 3, 4), integers(1, 5, 4)
    for name in ("add", "sub", "mul", "floor_div", "mod", "maximum", "equal", "less"):
        cases.append(Case(f"{name} int", [a, b], lambda p, q, op=getattr(mb, name): op(x=p, y=q),
                          lambda p, q, f=functions[name]: _no_bool(f(p, q))))  # fmt: skip
    cases.append(Case("pow", [positive(2, 3), normal(2, 3)], lambda p, q: mb.pow(x=p, y=q), np.power))
    cases.append(Case("mul by scalar", [a.astype(np.float32)], lambda p: mb.mul(x=p, y=np.float32(0.3)),
                      lambda p: p * np.float32(0.3)))  # fmt: skip
    for name, function in (("and", np.logical_and), ("or", np.logical_or), ("xor", np.logical_xor)):
        cases.append(Case(
            f"logical_{name}", [normal(3, 4), normal(4)],
            lambda p, q, op=getattr(mb, f"logical_{name}"): op(x=mb.greater(x=p, y=0.0), y=mb.greater(x=q, y=0.0)),
            lambda p, q, f=function: f(p > 0, q > 0).astype(int),
        ))  # fmt: skip
    cases.append(Case(
        "select", [normal(3, 4), normal(3, 4), normal(3, 4)],
        lambda c, p, q: mb.select(cond=mb.greater(x=c, y=0.0), a=p, b=q), lambda c, p, q: np.where(c > 0, p, q), 0.0,
    ))  # fmt: skip
    return cases


def _no_bool(value: np.ndarray) -> np.ndarray:
    return value.astype(np.int32) if value.dtype == bool else value


def reduction_cases() -> list[Case]:
    functions = {
        "mean": np.mean, "sum": np.sum, "max": np.max, "min": np.min, "prod": np.prod,
        "l1_norm": lambda v, **k: np.sum(np.abs(v), **k), "l2_norm": lambda v, **k: np.sqrt(np.sum(v * v, **k)),
        "sum_square": lambda v, **k: np.sum(v * v, **k), "log_sum": lambda v, **k: np.log(np.sum(v, **k)),
        "log_sum_exp": scipy.special.logsumexp,
    }  # fmt: skip
    axes = [((1,), True), ((0, -1), False), ((2, 1), True), (None, False)]
    cases = []
    for (name, function), (axis, keep) in itertools.product(functions.items(), axes):
        cases.append(Case(
            f"{name} {axis}", [positive(2, 3, 4)],
            lambda v, op=getattr(mb, f"reduce_{name}"), a=axis, k=keep: op(x=v, axes=a, keep_dims=k),
            lambda v, f=function, a=axis, k=keep: f(v, axis=a, keepdims=k), 1e-5,
        ))  # fmt: skip
    x = rng.permutation(24).reshape(2, 3, 4).astype(np.float32)
    for axis in (0, -1):
        cases += [
            Case(f"argmax {axis}", [x], lambda v, a=axis: mb.reduce_argmax(x=v, axis=a),
                 lambda v, a=axis: v.argmax(a).astype(np.int32)),
            Case(f"argmin {axis}", [x], lambda v, a=axis: mb.reduce_argmin(x=v, axis=a, keep_dims=True),
                 lambda v, a=axis: v.argmin(a, keepdims=True).astype(np.int32)),
            Case(f"argsort {axis}", [x], lambda v, a=axis: mb.argsort(x=v, axis=a, ascending=True),
                 lambda v, a=axis: v.argsort(a).astype(np.int32)),
            Case(f"topk {axis}", [x], lambda v, a=axis: mb.topk(x=v, k=2, axis=a),
                 lambda v, a=axis: tuple(np.flip(np.take(w, range(-2, 0), a), a) for w in
                                         (np.sort(v, a), v.argsort(a).astype(np.int32)))),
        ]  # fmt: skip
    return cases


def product_cases() -> list[Case]:
    cases = []
    shapes = [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (5, 4, 6)), ((4,), (4, 3))]
    for (sx, sy), tx, ty in itertools.product(shapes, (False, True), (False, True)):
        if tx and len(sx) == 1:
            continue
        x, y = normal(*sx), normal(*sy)
        x = x.swapaxes(-1, -2).copy() if tx else x
        y = y.swapaxes(-1, -2).copy() if ty else y

        def expect(p, q, tx=tx, ty=ty):
            return (p.swapaxes(-1, -2) if tx else p) @ (q.swapaxes(-1, -2) if ty else q)

        build = lambda p, q, tx=tx, ty=ty: mb.matmul(x=p, y=q, transpose_x=tx, transpose_y=ty)  # noqa: E731
        cases.append(Case(f"matmul {sx} {sy} {tx} {ty}", [x, y], build, expect))
    for equation, sx, sy in (
        ("nchw,nwhu->nchu", (2, 3, 4, 5), (2, 5, 4, 6)),
        ("bkhc,bchq->bkhq", (2, 4, 3, 5), (2, 5, 3, 6)),
        ("bchk,bkhq->bchq", (1, 5, 3, 4), (1, 4, 3, 6)),
        ("chw,whr->chr", (3, 4, 5), (5, 4, 6)),
    ):
        build = lambda p, q, e=equation: mb.einsum(values=(p, q), equation=e)  # noqa: E731
        expect = lambda p, q, e=equation: np.einsum(e, p, q)  # noqa: E731
        cases.append(Case(f"einsum {equation}", [normal(*sx), normal(*sy)], build, expect))
    w, b = normal(6, 4), normal(6)
    cases.append(Case("linear", [normal(2, 3, 4)], lambda v: mb.linear(x=v, weight=w, bias=b), lambda v: v @ w.T + b))
    cases.append(Case("linear no bias", [normal(3, 4)], lambda v: mb.linear(x=v, weight=w), lambda v: v @ w.T))
    return cases


def normalization_cases() -> list[Case]:
    gamma, beta, mean, variance = normal(3), normal(3), normal(3), positive(3)
    column = (slice(None), None, None)

    def moments(v, axes, eps):
        return (v - v.mean(axes, keepdims=True)) / np.sqrt(v.var(axes, keepdims=True) + eps)

    cases = [
        Case("batch_norm", [normal(2, 3, 4, 5)],
             lambda v: mb.batch_norm(x=v, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=1e-3),
             lambda v: (v - mean[column]) / np.sqrt(variance[column] + 1e-3) * gamma[column] + beta[column]),
        Case("batch_norm plain", [normal(2, 3, 4, 5)], lambda v: mb.batch_norm(x=v, mean=mean, variance=variance),
             lambda v: (v - mean[column]) / np.sqrt(variance[column] + 1e-5)),
        Case("instance_norm", [normal(2, 3, 4, 5)],
             lambda v: mb.instance_norm(x=v, gamma=gamma, beta=beta, epsilon=1e-2),
             lambda v: moments(v, (2, 3), 1e-2) * gamma[column] + beta[column]),
        Case("instance_norm plain", [normal(2, 3, 6)], lambda v: mb.instance_norm(x=v), lambda v: moments(v, 2, 1e-5)),
        Case("l2_norm", [normal(2, 3, 4, 5)], lambda v: mb.l2_norm(x=v, epsilon=1e-2),
             lambda v: v / np.sqrt((v * v).sum((1, 2, 3), keepdims=True) + 1e-2)),
        Case("local_response_norm", [normal(1, 5, 3, 3)],
             lambda v: mb.local_response_norm(x=v, size=3, alpha=0.5, beta=0.6, k=1.5),
             lambda v: v / (1.5 + 0.5 / 3 * sum(np.pad(v * v, ((0, 0), (1, 1), (0, 0), (0, 0)))[:, i : i + 5]
                                                 for i in range(3))) ** 0.6),
    ]  # fmt: skip
    for axes in ((-1,), (1,), (1, 2), (2, 3)):
        shape = (2, 3, 4, 5)
        scale, shift = normal(*[shape[a] for a in axes]), normal(*[shape[a] for a in axes])
        form = [shape[a] if a in {x % 4 for x in axes} else 1 for a in range(4)]
        cases.append(Case(
            f"layer_norm {axes}", [normal(*shape)],
            lambda v, a=axes, s=scale, t=shift: mb.layer_norm(x=v, axes=a, gamma=s, beta=t, epsilon=1e-3),
            lambda v, a=axes, s=scale, t=shift, f=form: moments(v, a, 1e-3) * s.reshape(f) + t.reshape(f),
        ))  # fmt: skip
    return cases


def numpy_conv(x, w, b, strides, pads, dilations, groups):
    """Convolution by summing over kernel positions; pads as ((before, after), ...)."""
    x = np.pad(x, ((0, 0), (0, 0), *pads)).astype(np.float64)
    kernel = w.shape[2:]
    sizes = [(n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(x.shape[2:], kernel, dilations, strides, strict=True)]
    out = np.zeros((x.shape[0], w.shape[0], *sizes))
    per_in, per_out = w.shape[1], w.shape[0] // groups
    for g, position in itertools.product(range(groups), np.ndindex(*kernel)):
        window = tuple(slice(p * d, p * d + (n - 1) * s + 1, s)
                       for p, d, s, n in zip(position, dilations, strides, sizes, strict=True))  # fmt: skip
        part = x[(slice(None), slice(g * per_in, (g + 1) * per_in), *window)]
        tap = w[(slice(g * per_out, (g + 1) * per_out), slice(None), *position)]  # (O, I)
        out[:, g * per_out : (g + 1) * per_out] += np.einsum("ni...,oi->no...", part, tap)
    return out if b is None else out + b.reshape(-1, *[1] * len(kernel))


def numpy_conv_transpose(x, w, b, strides, dilations, groups):
    """The full transposed convolution, by spreading each input element over the kernel."""
    kernel = w.shape[2:]
    sizes = [(n - 1) * s + (k - 1) * d + 1 for n, k, d, s in zip(x.shape[2:], kernel, dilations, strides, strict=True)]
    per_in, per_out = x.shape[1] // groups, w.shape[1]
    out = np.zeros((x.shape[0], per_out * groups, *sizes))
    for g, position in itertools.product(range(groups), np.ndindex(*kernel)):
        window = tuple(slice(p * d, p * d + (n - 1) * s + 1, s)
                       for p, d, s, n in zip(position, dilations, strides, x.shape[2:], strict=True))  # fmt: skip
        tap = w[(slice(g * per_in, (g + 1) * per_in), slice(None), *position)]  # (I, O)
        part = x[:, g * per_in : (g + 1) * per_in].astype(np.float64)
        out[(slice(None), slice(g * per_out, (g + 1) * per_out), *window)] += np.einsum("ni...,io->no...", part, tap)
    return out, (0 if b is None else b.reshape(-1, *[1] * len(kernel)))


def same_pads(sizes, kernel, strides, dilations, lower):
    pads = []
    for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        pads.append((total - total // 2, total // 2) if lower else (total // 2, total - total // 2))
    return tuple(pads)


def conv_cases() -> list[Case]:
    cases = []
    for i, (spatial, pad_type) in enumerate(itertools.product((1, 2, 2, 3), ("valid", "same", "same_lower", "custom"))):
        groups = int(rng.choice([1, 1, 2, 4]))
        kernel, strides = rng.integers(1, 5, spatial).tolist(), rng.integers(1, 4, spatial).tolist()
        dilations = rng.integers(1, 3, spatial).tolist()
        sizes = rng.integers(9, 13, spatial).tolist()
        pad = rng.integers(0, 3, 2 * spatial).tolist()
        x, w = normal(2, 4, *sizes), normal(8, 4 // groups, *kernel)
        b = normal(8) if i % 2 else None
        pads = {
            "valid": ((0, 0),) * spatial,
            "custom": tuple(zip(pad[::2], pad[1::2], strict=True)),
        }.get(pad_type) or same_pads(sizes, kernel, strides, dilations, pad_type == "same_lower")

        def build(v, w=w, b=b, s=strides, d=dilations, g=groups, t=pad_type, p=pad):
            extra = {"pad": p} if t == "custom" else {}
            extra |= {} if b is None else {"bias": b}
            return mb.conv(x=v, weight=w, strides=s, dilations=d, groups=g, pad_type=t, **extra)

        cases.append(Case(
            f"conv {i} {spatial}d {pad_type}", [x], build,
            lambda v, w=w, b=b, s=strides, d=dilations, g=groups, p=pads: numpy_conv(v, w, b, s, p, d, g), 1e-5,
        ))  # fmt: skip
    weight_input = normal(5, 3, 1, 1)
    cases.append(Case("conv with computed weight", [normal(1, 3, 4, 4), weight_input],
                      lambda v, w: mb.conv(x=v, weight=mb.mul(x=w, y=2.0), pad_type="valid"),
                      lambda v, w: np.einsum("nihw,oi->nohw", v, 2 * w[:, :, 0, 0])))  # fmt: skip
    return cases


def conv_transpose_cases() -> list[Case]:
    cases = []
    for i, (spatial, pad_type) in enumerate(itertools.product((1, 2, 2, 3), ("valid", "custom", "same", "shape"))):
        groups = int(rng.choice([1, 2]))
        strides = rng.integers(1, 4, spatial).tolist()
        kernel = [int(k) for k in rng.integers(2, 5, spatial)]
        if pad_type in ("same", "shape"):
            kernel = [s + 1 for s in strides]
        dilations = [1] * spatial if pad_type in ("same", "shape") else rng.integers(1, 3, spatial).tolist()
        sizes = rng.integers(3, 6, spatial).tolist()
        pad = rng.integers(0, 2, 2 * spatial).tolist()
        x, w = normal(2, 4, *sizes), normal(4, 3, *kernel)
        b = normal(3 * groups) if i % 2 else None
        full = [(n - 1) * s + (k - 1) * d + 1 for n, k, d, s in zip(sizes, kernel, dilations, strides, strict=True)]
        crop = {
            "valid": [slice(0, n) for n in full],
            "custom": [slice(p, n - q) for p, q, n in zip(pad[::2], pad[1::2], full, strict=True)],
        }.get(pad_type) or [
            slice((f - n * s) // 2, (f - n * s) // 2 + n * s) for f, n, s in zip(full, sizes, strides, strict=True)
        ]

        def build(v, w=w, b=b, s=strides, d=dilations, g=groups, t=pad_type, p=pad, n=sizes):
            extra = {"pad": p} if t == "custom" else {}
            extra |= {} if b is None else {"bias": b}
            if t == "shape":
                extra["output_shape"] = [2, w.shape[1] * g, *(a * c for a, c in zip(n, s, strict=True))]
                t = "same"
            return mb.conv_transpose(x=v, weight=w, strides=s, dilations=d, groups=g, pad_type=t, **extra)

        def expect(v, w=w, b=b, s=strides, d=dilations, g=groups, c=crop):
            y, bias = numpy_conv_transpose(v, w, b, s, d, g)
            return y[(slice(None), slice(None), *c)] + bias

        cases.append(Case(f"conv_transpose {i} {spatial}d {pad_type}", [x], build, expect, 1e-5))
    return cases


def numpy_pool(x, kernel, strides, pads, extension, reduce, fill):
    """Pooling over explicit windows; `reduce` sees each window of values and of 'counts' marks."""
    spatial = len(kernel)
    grow = tuple((a, b + e) for (a, b), e in zip(pads, extension, strict=True))
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *grow), constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=tuple(range(2, 2 + spatial)))
    windows = windows[(slice(None), slice(None), *(slice(None, None, s) for s in strides))]
    return reduce(windows, tuple(range(-spatial, 0)))


def pool_cases() -> list[Case]:
    cases = []
    settings = itertools.product((1, 2, 3), ("valid", "same", "same_lower", "custom", "ceil"))
    for i, (spatial, pad_type) in enumerate(settings):
        if spatial == 3 and pad_type == "ceil":
            continue  # MIL has ceil_mode for one and two axes
        kernel, strides = rng.integers(2, 4, spatial).tolist(), rng.integers(1, 4, spatial).tolist()
        sizes = rng.integers(7, 12, spatial).tolist()
        pad = rng.integers(0, 2, 2 * spatial).tolist()
        pad = [p for p in pad[::2] for _ in range(2)] if pad_type == "ceil" else pad
        x, ceil = normal(2, 3, *sizes), pad_type == "ceil"
        kind = "custom" if ceil else pad_type
        pads = tuple(zip(pad[::2], pad[1::2], strict=True)) if kind == "custom" else ((0, 0),) * spatial
        if kind.startswith("same"):
            pads = same_pads(sizes, kernel, strides, [1] * spatial, kind == "same_lower")
        common = {"kernel_sizes": kernel, "strides": strides, "pad_type": kind}
        common |= {"pad": pad} if kind == "custom" else {}
        common |= {"ceil_mode": True} if ceil else {}
        for name, exclude in (("max_pool", None), ("avg_pool", False), ("avg_pool", True), ("l2_pool", None)):
            if name == "l2_pool" and (ceil or spatial == 3):  # MIL has it for one and two axes
                continue
            settings_ = common | ({} if exclude is None else {"exclude_padding_from_average": exclude})
            build = lambda v, op=getattr(mb, name), s=settings_: op(x=v, **s)  # noqa: E731
            if ceil:  # PyTorch defines ceil_mode; the evaluator pools without it
                function = getattr(F, f"{name}{spatial}d")
                extra = {} if exclude is None else {"count_include_pad": not exclude}
                expect = lambda v, f=function, k=kernel, s=strides, p=pad, e=extra: f(  # noqa: E731
                    torch.from_numpy(v), k, s, p[::2], ceil_mode=True, **e
                ).numpy()
            else:
                expect = _pool_reference(name, exclude, kernel, strides, pads)
            cases.append(Case(f"{name} {i} {spatial}d {pad_type} {exclude}", [x], build, expect, 1e-5))
    return cases


def _pool_reference(name, exclude, kernel, strides, pads):
    zero = (0,) * len(kernel)
    if name == "max_pool":
        return lambda v: numpy_pool(v, kernel, strides, pads, zero, np.max, -np.inf)
    if name == "l2_pool":
        return lambda v: np.sqrt(numpy_pool(v * v, kernel, strides, pads, zero, np.sum, 0))
    if not exclude:
        return lambda v: numpy_pool(v, kernel, strides, pads, zero, np.mean, 0)
    return lambda v: numpy_pool(v, kernel, strides, pads, zero, np.nanmean, np.nan)


def random_slice(size: int) -> tuple[int, int, int, int, int]:
    """begin, end, stride, begin_mask, end_mask with a non-empty result."""
    while True:
        begin, end = rng.integers(-size, size, 2).tolist()
        stride = int(rng.choice([1, 1, 2, 3, -1, -2]))
        first, last = rng.random(2) < 0.3
        cut = slice(None if first else begin, None if last else end, stride)
        forward = begin % size, end % size
        mixed = (begin < 0) != (end < 0) and not (first or last)  # MIL cannot infer these
        ordered = first or last or (forward[0] < forward[1]) == (stride > 0)
        if len(range(*cut.indices(size))) and ordered and not mixed and end != 0:
            return begin, end, stride, int(first), int(last)


def slice_cases() -> list[Case]:
    cases = []
    for i in range(24):
        shape = tuple(int(n) for n in rng.integers(3, 8, rng.integers(1, 5)))
        parts = [random_slice(n) for n in shape]
        squeeze = [bool(rng.random() < 0.2) and len(shape) > 1 and not p[3] for p in parts]
        squeeze[0] = False
        begin, end, stride, begin_mask, end_mask = (list(c) for c in zip(*parts, strict=True))

        def expect(v, b=begin, e=end, s=stride, m=begin_mask, n=end_mask, q=squeeze):
            index = tuple(
                b[a] if q[a] else slice(None if m[a] else b[a], None if n[a] else e[a], s[a]) for a in range(v.ndim)
            )
            return v[index]

        settings = {
            "begin": begin, "end": end, "stride": stride, "begin_mask": [bool(m) for m in begin_mask],
            "end_mask": [bool(m) for m in end_mask], "squeeze_mask": squeeze,
        }  # fmt: skip
        cases.append(Case(f"slice_by_index {i}", [normal(*shape)],
                          lambda v, s=settings: mb.slice_by_index(x=v, **s), expect, 0.0))  # fmt: skip
    x = normal(5, 6, 7)
    cases += [
        Case("slice_by_size", [x], lambda v: mb.slice_by_size(x=v, begin=[1, -4, 2], size=[3, 2, -1]),
             lambda v: v[1:4, 2:4, 2:], 0.0),
        Case("slice_by_size at run time", [x, np.array([2, 0, 3], np.int32)],
             lambda v, b: mb.slice_by_size(x=v, begin=b, size=[2, 6, 2]), lambda v, b: v[2:4, :, 3:5], 0.0),
        Case("crop", [x], lambda v: mb.crop(x=v, crop_height=[1, 2], crop_width=[0, 3]), lambda v: v[:, 1:4, :4], 0.0),
        Case("band_part", [x], lambda v: mb.band_part(x=v, lower=1, upper=2),
             lambda v: np.triu(np.tril(v, 2), -1), 0.0),
        Case("band_part lower", [x], lambda v: mb.band_part(x=v, lower=-1, upper=0), lambda v: np.tril(v), 0.0),
        Case("sliding_windows", [x], lambda v: mb.sliding_windows(x=v, axis=1, size=3, stride=2),
             lambda v: np.stack([v[:, i : i + 3] for i in (0, 2)], 1), 0.0),
        Case("reverse", [x], lambda v: mb.reverse(x=v, axes=[0, -1]), lambda v: v[::-1, :, ::-1], 0.0),
    ]  # fmt: skip
    return cases


def shape_cases() -> list[Case]:
    x, y, z = normal(2, 3, 4), normal(2, 3, 4), normal(2, 5, 4)
    ref = normal(6, 4)
    cases = [
        Case("reshape", [x], lambda v: mb.reshape(x=v, shape=[4, 6]), lambda v: v.reshape(4, 6)),
        Case("reshape 0 -1", [x], lambda v: mb.reshape(x=v, shape=[0, -1, 2]), lambda v: v.reshape(2, 6, 2)),
        Case("reshape_like", [x, ref],
             lambda v, r: mb.reshape_like(x=v, ref_tensors=[r, r], begins=[0, 1], ends=[1, 0], end_masks=[False, True]),
             lambda v, r: v.reshape(6, 4)),
        Case("transpose", [x], lambda v: mb.transpose(x=v, perm=[2, 0, 1]), lambda v: v.transpose(2, 0, 1)),
        Case("transpose negative", [x], lambda v: mb.transpose(x=v, perm=[-1, 0, 1]), lambda v: v.transpose(2, 0, 1)),
        Case("expand_dims", [x], lambda v: mb.expand_dims(x=v, axes=[-1, 2]),
             lambda v: v.reshape(2, 3, 1, 4, 1)),
        Case("squeeze", [normal(1, 3, 1, 4)], lambda v: mb.squeeze(x=v, axes=[-2]), lambda v: v.reshape(1, 3, 4)),
        Case("squeeze all", [normal(1, 3, 1, 4)], lambda v: mb.squeeze(x=v), lambda v: v.reshape(3, 4)),
        Case("flatten2d", [x], lambda v: mb.flatten2d(x=v, axis=2), lambda v: v.reshape(6, 4)),
        Case("concat", [x, z], lambda a, b: mb.concat(values=[a, b], axis=1), lambda a, b: np.concatenate([a, b], 1)),
        Case("concat interleave", [x, y], lambda a, b: mb.concat(values=[a, b], axis=1, interleave=True),
             lambda a, b: np.stack([a, b], 2).reshape(2, 6, 4)),
        Case("stack", [x, y], lambda a, b: mb.stack(values=[a, b], axis=-2), lambda a, b: np.stack([a, b], -2)),
        Case("split sizes", [normal(2, 7)], lambda v: mb.split(x=v, split_sizes=[1, 4, 2], axis=-1),
             lambda v: tuple(np.split(v, [1, 5], 1))),
        Case("split count", [normal(2, 6)], lambda v: mb.split(x=v, num_splits=3, axis=1),
             lambda v: tuple(np.split(v, 3, 1))),
        Case("tile", [x], lambda v: mb.tile(x=v, reps=[2, 1, 3]), lambda v: np.tile(v, (2, 1, 3))),
        Case("shape", [x], lambda v: mb.shape(x=v), np.array([2, 3, 4], np.int32)),
        Case("fill", [x], lambda v: mb.fill(shape=mb.shape(x=v), value=1.5), np.full((2, 3, 4), 1.5)),
        Case("fill_like", [x], lambda v: mb.fill_like(ref_tensor=v, value=2.5), np.full((2, 3, 4), 2.5)),
        Case("range_1d", [np.array([1], np.int32)],
             lambda v: mb.add(x=mb.range_1d(start=2, end=11, step=3), y=v), np.array([3, 6, 9], np.int32)),
        Case("depth_to_space", [normal(2, 12, 2, 3)], lambda v: mb.depth_to_space(x=v, block_size=2), dcr),
        Case("space_to_depth", [normal(2, 3, 4, 6)], lambda v: mb.space_to_depth(x=v, block_size=2),
             lambda v: np.concatenate([v[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)),
        Case("pixel_shuffle", [normal(2, 12, 2, 3)], lambda v: mb.pixel_shuffle(x=v, upscale_factor=2),
             lambda v: F.pixel_shuffle(torch.from_numpy(v), 2).numpy()),
        Case("pixel_unshuffle", [normal(2, 3, 4, 6)],
             lambda v: mb.pixel_unshuffle(x=v, downscale_factor=np.uint32(2)),
             lambda v: F.pixel_unshuffle(torch.from_numpy(v), 2).numpy()),
        Case("space_to_batch", [normal(1, 2, 3, 5)],
             lambda v: mb.space_to_batch(x=v, block_shape=[2, 3], paddings=[[1, 0], [0, 1]]), space_to_batch),
        Case("batch_to_space", [normal(6, 2, 2, 2)],
             lambda v: mb.batch_to_space(x=v, block_shape=[2, 3], crops=[[1, 0], [0, 1]]), batch_to_space),
    ]  # fmt: skip
    for mode, name in (("constant", "constant"), ("reflect", "reflect"), ("replicate", "edge")):
        keys = {"constant_values": 0.5} if mode == "constant" else {}
        cases += [
            Case(f"pad {mode} 2d", [normal(1, 2, 4, 5)],
                 lambda v, m=mode: mb.pad(x=v, pad=[1, 2, 3, 1], mode=m, constant_val=0.5),
                 lambda v, n=name, k=keys: np.pad(v, ((0, 0), (0, 0), (1, 2), (3, 1)), n, **k)),
            Case(f"pad {mode} all", [normal(3, 4, 5)],
                 lambda v, m=mode: mb.pad(x=v, pad=[1, 0, 2, 1, 0, 3], mode=m, constant_val=0.5),
                 lambda v, n=name, k=keys: np.pad(v, ((1, 0), (2, 1), (0, 3)), n, **k)),
        ]  # fmt: skip
    return cases


def dcr(v: np.ndarray) -> np.ndarray:
    """depth_to_space with the block position outermost among the channels (ONNX mode DCR, TensorFlow)."""
    n, c, h, w = v.shape
    out = np.zeros((n, c // 4, 2 * h, 2 * w), v.dtype)
    for i, j in np.ndindex(2, 2):
        start = (2 * i + j) * (c // 4)
        out[:, :, i::2, j::2] = v[:, start : start + c // 4]
    return out


def space_to_batch(v: np.ndarray) -> np.ndarray:
    v = np.pad(v, ((0, 0), (0, 0), (1, 0), (0, 1)))
    return np.concatenate([v[:, :, i::2, j::3] for i in range(2) for j in range(3)], 0)


def batch_to_space(v: np.ndarray) -> np.ndarray:
    out = np.zeros((1, 2, 4, 6), v.dtype)
    for i, j in np.ndindex(2, 3):
        out[:, :, i::2, j::3] = v[3 * i + j][None]
    return out[:, :, 1:, :-1]


def gather_cases() -> list[Case]:
    x, grid = normal(4, 5, 6), integers(-4, 4, 2, 3)
    batch = integers(0, 6, 4, 5, 2)
    along = integers(0, 5, 4, 3, 6)
    points = integers(0, 4, 7, 2)
    rows = np.array([3, 0], np.int32)
    updates = normal(2, 5, 6)
    cases = [
        Case("gather", [x, grid], lambda v, i: mb.gather(x=v, indices=i, axis=0), lambda v, i: v[i], 0.0),
        Case("gather axis 1", [x, grid], lambda v, i: mb.gather(x=v, indices=i, axis=-2), lambda v, i: v[:, i], 0.0),
        Case("gather batched", [x, batch], lambda v, i: mb.gather(x=v, indices=i, axis=2, batch_dims=2),
             lambda v, i: np.take_along_axis(v, i, 2), 0.0),
        Case("gather batched middle", [normal(3, 2, 5, 4), integers(0, 5, 3, 2)],
             lambda v, i: mb.gather(x=v, indices=i, axis=2, batch_dims=1),
             lambda v, i: np.stack([v[b][:, i[b]] for b in range(3)]), 0.0),
        Case("gather_along_axis", [x, along], lambda v, i: mb.gather_along_axis(x=v, indices=i, axis=1),
             lambda v, i: np.take_along_axis(v, i, 1), 0.0),
        Case("gather_nd", [x, points], lambda v, i: mb.gather_nd(x=v, indices=i),
             lambda v, i: v[i[:, 0], i[:, 1]], 0.0),
        Case("gather_nd batched", [x, integers(0, 5, 4, 3, 1)],
             lambda v, i: mb.gather_nd(x=v, indices=i, batch_dims=1),
             lambda v, i: np.stack([v[b][i[b, :, 0]] for b in range(4)]), 0.0),
        Case("one_hot", [integers(0, 4, 2, 3)],
             lambda i: mb.one_hot(indices=i, one_hot_vector_size=4, axis=1, on_value=2.0, off_value=-1.0),
             lambda i: np.where(np.moveaxis(np.eye(4)[i], -1, 1) == 1, 2.0, -1.0), 0.0),
        Case("one_hot last", [integers(0, 4, 5)], lambda i: mb.one_hot(indices=i, one_hot_vector_size=4),
             lambda i: np.eye(4, dtype=np.int32)[i], 0.0),
    ]  # fmt: skip
    for mode, function in (("update", lambda a, b: b), ("add", np.add), ("sub", np.subtract), ("mul", np.multiply),
                           ("div", np.divide), ("max", np.maximum), ("min", np.minimum)):  # fmt: skip

        def scatter(v, i, u, f=function):
            v = v.copy()
            v[i] = f(v[i], u)
            return v

        cases.append(
            Case(
                f"scatter {mode}",
                [x, rows, updates],
                lambda v, i, u, m=mode: mb.scatter(data=v, indices=i, updates=u, axis=0, mode=m),
                scatter,
            )
        )
    order = np.argsort(normal(4, 5, 6), 1)[:, :2].astype(np.int32)
    places = np.array([[0, 1], [3, 4], [2, 2]], np.int32)

    def scatter_along(v, i, u):
        v = v.copy()
        np.put_along_axis(v, i, np.take_along_axis(v, i, 1) + u, 1)
        return v

    def scatter_nd(v, i, u):
        v = v.copy()
        np.add.at(v, (i[:, 0], i[:, 1]), u)
        return v

    cases += [
        Case("scatter_along_axis", [x, order, normal(4, 2, 6)],
             lambda v, i, u: mb.scatter_along_axis(data=v, indices=i, updates=u, axis=1, mode="add"), scatter_along),
        Case("scatter_nd", [x, places, normal(3, 6)],
             lambda v, i, u: mb.scatter_nd(data=v, indices=i, updates=u, mode="add"), scatter_nd),
    ]  # fmt: skip
    return cases


def numpy_resize(v: np.ndarray, sizes: Sequence[int], grid: Callable[[int, int], np.ndarray]) -> np.ndarray:
    """Linear interpolation of the last axes at the points grid(source, target)."""
    for axis, target in zip(range(-len(sizes), 0), sizes, strict=True):
        source = v.shape[axis]
        points = np.clip(grid(source, target), 0, source - 1)
        v = np.apply_along_axis(lambda row, p=points: np.interp(p, np.arange(len(row)), row), axis, v)
    return v


def resize_cases() -> list[Case]:
    grids = {
        "STRICT_ALIGN_CORNERS": lambda n, m: np.linspace(0, n - 1, m),
        "ALIGN_CORNERS": lambda n, m: np.linspace(0, n - 1, m) if m > 1 else np.array([(n - 1) / 2]),
        "DEFAULT": lambda n, m: np.arange(m) * n / m,
        "OFFSET_CORNERS": lambda n, m: (np.arange(m) + 0.5) * max(1, n - 1) / m,
        "UNALIGN_CORNERS": lambda n, m: (np.arange(m) + 0.5) * n / m - 0.5,
    }
    cases = []
    for (mode, grid), (height, width) in itertools.product(grids.items(), ((7, 10), (3, 5), (1, 4))):
        cases.append(Case(
            f"resize_bilinear {mode} {height}", [normal(1, 2, 4, 5)],
            lambda v, m=mode, h=height, w=width: mb.resize_bilinear(
                x=v, target_size_height=h, target_size_width=w, sampling_mode=m),
            lambda v, g=grid, h=height, w=width: numpy_resize(v, (h, w), g), 1e-5,
        ))  # fmt: skip
    forms = ((True, False, "ALIGN_CORNERS"), (False, True, "UNALIGN_CORNERS"), (False, False, "DEFAULT"))
    for align, half, mode in forms:
        cases.append(Case(
            f"upsample_bilinear {mode}", [normal(1, 2, 4, 5)],
            lambda v, a=align, h=half: mb.upsample_bilinear(
                x=v, scale_factor_height=2, scale_factor_width=3, align_corners=a, half_pixel_centers=h),
            lambda v, g=grids[mode]: numpy_resize(v, (8, 15), g), 1e-5,
        ))  # fmt: skip
    cases += [
        Case("upsample_nearest", [normal(1, 2, 4, 5)],
             lambda v: mb.upsample_nearest_neighbor(x=v, scale_factor_height=2, scale_factor_width=3),
             lambda v: v.repeat(2, 2).repeat(3, 3), 0.0),
        Case("upsample_nearest fraction", [normal(1, 2, 4, 6)],
             lambda v: mb.upsample_nearest_neighbor(x=v, scale_factor_height=1.5, scale_factor_width=0.5),
             lambda v: v[:, :, [0, 0, 1, 2, 2, 3]][:, :, :, [0, 2, 4]], 0.0),
        Case("resize_nearest", [normal(1, 2, 4, 5)],
             lambda v: mb.resize_nearest_neighbor(x=v, target_size_height=12, target_size_width=2),
             lambda v: v.repeat(3, 2)[..., [0, 2]], 0.0),
        Case("resize linear", [normal(1, 2, 4, 5)],
             lambda v: mb.resize(x=v, shape=[0, 8], resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS"),
             lambda v: numpy_resize(v, (4, 8), grids["UNALIGN_CORNERS"]), 1e-5),
        Case("resize nearest", [normal(1, 2, 4, 5)],
             lambda v: mb.resize(x=v, shape=[8, 5], resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR"),
             lambda v: v.repeat(2, 2), 0.0),
    ]  # fmt: skip
    return cases


FAMILIES = {
    "unary": unary_cases(),
    "binary": binary_cases(),
    "reduction": reduction_cases(),
    "product": product_cases(),
    "normalization": normalization_cases(),
    "conv": conv_cases(),
    "conv_transpose": conv_transpose_cases(),
    "pool": pool_cases(),
    "slice": slice_cases(),
    "shape": shape_cases(),
    "gather": gather_cases(),
    "resize": resize_cases(),
}


@pytest.fixture(scope="module")
def family_results(tmp_path_factory):
    """Results of a family's program, evaluated when first asked for."""
    done: dict[str, dict[str, tuple[np.ndarray, ...]]] = {}

    def get(family: str) -> dict[str, tuple[np.ndarray, ...]]:
        if family not in done:
            path = tmp_path_factory.mktemp("packages") / f"{family}.mlpackage"
            done[family] = run_cases(path, FAMILIES[family])
        return done[family]

    return get


@pytest.mark.parametrize(
    ("family", "case"),
    [pytest.param(family, case, id=case.name) for family, cases in FAMILIES.items() for case in cases],
)
def test_operation_matches_reference(family, case, family_results):
    check(case, family_results(family)[case.name])


# Families whose operations coremltools can compute itself when all inputs are constant.
INFERRED = ("unary", "binary", "reduction", "product", "slice", "shape", "gather")
# coremltools 9.0's inference, not its runtime: exclusive cumsum raises, the others ignore `interleave` and `mode`.
WRONGLY_INFERRED = ("cumsum True False", "cumsum True True", "concat interleave", "scatter_along_axis")


@pytest.mark.parametrize("family", INFERRED)
def test_references_match_value_inference(family):
    """The numpy references mean what coremltools means: its value inference gives the same numbers."""
    compared = 0
    for case in FAMILIES[family]:
        if case.name in WRONGLY_INFERRED:
            continue
        with Function({}, opset_version=IOS17):
            built = case.build(*case.arrays)
        built = built if isinstance(built, (tuple, list)) else (built,)
        values = [variable.val for variable in built]
        if any(value is None for value in values):
            continue
        compared += 1
        for expected, value in zip(case.expected(), values, strict=True):
            np.testing.assert_allclose(np.asarray(value, np.float64), expected, rtol=1e-4, atol=1e-5, err_msg=case.name)
    assert compared >= 0.25 * len(FAMILIES[family])


# --- iOS 18 --------------------------------------------------------------------------------------------------------


def test_scaled_dot_product_attention(tmp_path):
    q, k, v = normal(1, 2, 5, 4), normal(1, 2, 6, 4), normal(1, 2, 6, 3)
    bias, keep = normal(5, 6), normal(5, 6)
    keep[:, 0] = 1.0

    def reference(mask):
        weights = scipy.special.softmax(q @ k.swapaxes(-1, -2) / 2.0 + mask, axis=-1)
        return weights @ v

    sdpa = mb.scaled_dot_product_attention
    cases = [
        Case("plain", [q, k, v], lambda q, k, v: sdpa(query=q, key=k, value=v), reference(0.0)),
        Case("bias", [q, k, v, bias], lambda q, k, v, m: sdpa(query=q, key=k, value=v, attn_mask=m), reference(bias)),
        Case(
            "bool mask",
            [q, k, v, keep],
            lambda q, k, v, m: sdpa(query=q, key=k, value=v, attn_mask=mb.greater(x=m, y=0.0)),
            reference(np.where(keep > 0, 0.0, -np.inf)),
        ),
    ]
    results = run_cases(tmp_path / "sdpa.mlpackage", cases, IOS18)
    for case in cases:
        check(case, results[case.name])


def test_slice_update(tmp_path):
    x = normal(4, 6, 5)

    def put(index, update):
        out = x.copy()
        out[index] = update
        return out

    plain, reverse, row = normal(2, 6, 2), normal(4, 3, 5), normal(4, 5)
    cases = [
        Case(
            "plain",
            [x, plain],
            lambda v, u: mb.slice_update(x=v, update=u, begin=[1, 0, 0], end=[3, 0, 4], stride=[1, 1, 2],
                                         end_mask=[False, True, False]),
            put((slice(1, 3), slice(None), slice(0, 4, 2)), plain),
        ),
        Case(
            "reverse",
            [x, reverse],
            lambda v, u: mb.slice_update(x=v, update=u, begin=[0, -1, 0], end=[4, -7, 5], stride=[1, -2, 1]),
            put((slice(None), slice(None, None, -2)), reverse),
        ),
        Case(
            "squeezed",
            [x, row],
            lambda v, u: mb.slice_update(x=v, update=u, begin=[0, 2, 0], end=[4, 3, 5],
                                         squeeze_mask=[False, True, False]),
            put((slice(None), 2), row),
        ),
    ]  # fmt: skip
    results = run_cases(tmp_path / "update.mlpackage", cases, IOS18)
    for case in cases:
        check(case, results[case.name])
