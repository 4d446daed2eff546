"""Rewrites of a recorded graph that hold for every back end: what is nothing goes, what is composed becomes whole."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

aten = torch.ops.aten

NOTHING = {
    aten.dropout.default, aten.contiguous.default, aten.clone.default, aten.alias.default, aten.detach.default,
    aten.lift_fresh_copy.default, aten.lift_fresh.default, aten.to.device, aten.feature_dropout.default,
    aten.native_dropout.default, aten.detach_.default,
}  # fmt: skip
CASTS = {aten.to.dtype, aten.to.dtype_layout, aten._to_copy.default, aten.type_as.default, aten.to.other}
MOVES = {
    aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int, aten.unbind.int,
    aten.select.int, aten.slice.Tensor, aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default,
    aten.neg.default, aten.stack.default, aten.cat.default, aten.unsqueeze.default, aten.squeeze.dim,
    aten.transpose.int, aten.permute.default, aten._unsafe_view.default, operator.getitem,
}  # fmt: skip


def rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None, eps: float) -> Tensor:
    """What several operations were before."""
    return F.rms_norm(x, list(shape), weight, eps)


def rotate(x: Tensor, order: Sequence[int], signs: Sequence[int]) -> Tensor:
    """The last dimension permuted and signed."""
    return x[..., list(order)] * torch.tensor(signs, dtype=x.dtype)


def rotary(x: Tensor, cos: Tensor, sin: Tensor, order: Sequence[int], signs: Sequence[int]) -> Tensor:
    """x cos + rotated(x) sin: rotary positions, whichever channels are pairs."""
    return x * cos + rotate(x, order, signs) * sin


def lessened(x: Tensor, factor: float) -> Tensor:
    """x times a factor that cancels in the end; fp16 needs it, fp32 does not."""
    return x * factor


class Graph:
    """A graph under rewriting, and the constants its placeholders and attributes stand for."""

    def __init__(self, graph: fx.Graph, constants: dict[str, Tensor]):
        self.graph, self.constants = graph, constants

    def constant(self, node: Any) -> Tensor | None:
        return self.constants.get(node.name) if isinstance(node, fx.Node) else None

    def add(self, before: fx.Node, target: Any, *args: Any, value: Tensor) -> fx.Node:
        """A new call with the (fake) value it makes."""
        with self.graph.inserting_before(before):
            node = self.graph.call_function(target, args)
        node.meta["val"] = value
        return node

    def add_constant(self, before: fx.Node, value: Tensor) -> fx.Node:
        name = f"added_{len(self.constants)}"
        self.graph.owning_module.register_buffer(name, value)
        with self.graph.inserting_before(before):
            node = self.graph.get_attr(name)
        node.meta["val"] = value
        self.constants[node.name] = value
        return node


def simplify(graph: Graph) -> None:
    """Every rewrite, in order."""
    norms = compose_norms, compose_unit_norms
    rewrites = (drop_nothing, compose_complex, *norms, compose_attention, compose_rotations, compose_rotary)
    for rewrite in (*rewrites, lessen_linear_attention, repeat_pixels):
        rewrite(graph)
        graph.graph.eliminate_dead_code(is_impure_node=is_end)


def is_end(node: fx.Node) -> bool:
    """Whether a node stays though nothing reads it."""
    return node.op in ("placeholder", "output")


def shape_of(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def drop_nothing(graph: Graph) -> None:
    """Calls that change no value in inference: dropout, copies, casts between floats, checks."""
    for node in list(graph.graph.nodes):
        if node.op != "call_function":
            continue
        if "assert" in str(node.target):
            graph.graph.erase_node(node)
        elif node.target in NOTHING or (node.target in CASTS and is_float(node) and is_float(node.args[0])):
            node.replace_all_uses_with(node.args[0])


def is_float(node: fx.Node) -> bool:
    return node.meta["val"].is_floating_point()


def repeat_pixels(graph: Graph) -> None:
    """Enlarging by whole numbers takes the nearest pixel either way; only one of the two has a form in Core ML."""
    for node in list(graph.graph.nodes):
        if node.target is aten._upsample_nearest_exact2d.vec:
            (*_, h, w), (*_, height, width) = shape_of(node.args[0]), shape_of(node)
            if height % h == width % w == 0:
                node.target = aten.upsample_nearest2d.vec


# ---- complex numbers ----


def compose_complex(graph: Graph) -> None:
    """Pairs viewed as complex numbers times constant ones: real products and a quarter turn."""
    for node in list(graph.graph.nodes):
        if node.target is not aten.view_as_real.default:
            continue
        factor = node.args[0]
        if factor.target is not aten.mul.Tensor:
            continue
        view, table = factor.args if graph.constant(factor.args[1]) is not None else factor.args[::-1]
        values = graph.constant(table)
        if values is None or view.target is not aten.view_as_complex.default:
            continue
        node.replace_all_uses_with(turned_pairs(graph, node, view.args[0], values))


def turned_pairs(graph: Graph, node: fx.Node, pairs: fx.Node, table: Tensor) -> fx.Node:
    """(..., n, 2) times complex (..., n): x cos + turned(x) sin on (..., 2n), read as pairs again."""
    *outer, n, _ = shape_of(pairs)
    like = torch.empty(*outer, 2 * n, device="meta")
    flat = graph.add(node, aten.reshape.default, pairs, [*outer, 2 * n], value=like)
    order = [i ^ 1 for i in range(2 * n)]
    signs = [-1 if i % 2 == 0 else 1 for i in range(2 * n)]
    turned = graph.add(node, rotate, flat, order, signs, value=like)
    cos, sin = (
        graph.add_constant(node, part.float().repeat_interleave(2, -1).contiguous())
        for part in (table.real, table.imag)
    )
    first = graph.add(node, aten.mul.Tensor, flat, cos, value=like)
    second = graph.add(node, aten.mul.Tensor, turned, sin, value=like)
    both = graph.add(node, aten.add.Tensor, first, second, value=like)
    return graph.add(node, aten.reshape.default, both, [*outer, n, 2], value=node.meta["val"])


# ---- norms ----


def compose_norms(graph: Graph) -> None:
    """x * rsqrt(mean(x^2) + eps), over the last dimension, maybe times a constant: one norm."""
    for node in list(graph.graph.nodes):
        found = mean_square(node) if node.target is aten.rsqrt.default else None
        if found is None:
            continue
        x, eps = found
        for user in list(node.users):
            if user.target is aten.mul.Tensor and set(user.args) == {x, node}:
                replace_norm(graph, user, x, eps)


def mean_square(root: fx.Node) -> tuple[fx.Node, float] | None:
    """x and eps of rsqrt(mean(x^2, -1) + eps)."""
    total = root.args[0]
    if getattr(total, "target", None) is not aten.add.Tensor or not isinstance(total.args[1], float):
        return None
    mean = total.args[0]
    if (
        mean.target is not aten.mean.dim
        or list(mean.args[1]) not in ([-1], [len(shape_of(mean)) - 1])
        or not (mean.args[2:] and mean.args[2])
    ):
        return None
    square = mean.args[0]
    if square.target is aten.pow.Tensor_Scalar and square.args[1] == 2:
        return square.args[0], total.args[1]
    if square.target is aten.mul.Tensor and square.args[0] is square.args[1]:
        return square.args[0], total.args[1]
    return None


def replace_norm(graph: Graph, product: fx.Node, x: fx.Node, eps: float) -> None:
    """Puts a norm for a product; the constant it is multiplied with next becomes its weight."""
    size = shape_of(x)[-1]
    weight, last = None, product
    if len(product.users) == 1:
        user = next(iter(product.users))
        others = [a for a in user.args if a is not product] if user.target is aten.mul.Tensor else []
        values = graph.constant(others[0]) if others else None
        if values is not None and tuple(values.shape) == (size,):
            weight, last = others[0], user
    made = graph.add(last, rms_norm, x, [size], weight, eps, value=last.meta["val"])
    last.replace_all_uses_with(made)


def compose_unit_norms(graph: Graph) -> None:
    """x / max(|x|, eps) along a dimension: a norm, which is scaled where fp16 would not hold its square."""
    for node in list(graph.graph.nodes):
        found = unit_norm(node) if node.target is aten.div.Tensor else None
        if found is None:
            continue
        x, dim, eps = found
        shape = shape_of(x)
        order = [i for i in range(len(shape)) if i != dim] + [dim]
        turned = graph.add(node, aten.permute.default, x, order, value=x.meta["val"].permute(order))
        weight = graph.add_constant(node, torch.full((shape[dim],), shape[dim] ** -0.5))
        made = graph.add(node, rms_norm, turned, [shape[dim]], weight, eps**2 / shape[dim], value=turned.meta["val"])
        back = [order.index(i) for i in range(len(shape))]
        node.replace_all_uses_with(graph.add(node, aten.permute.default, made, back, value=node.meta["val"]))


def unit_norm(quotient: fx.Node) -> tuple[fx.Node, int, float] | None:
    """x, the dimension and eps of x / max(|x|, eps)."""
    x, divisor = quotient.args
    divisor = divisor.args[0] if getattr(divisor, "target", None) is aten.expand.default else divisor
    if getattr(divisor, "target", None) is not aten.clamp_min.default:
        return None
    length, eps = divisor.args
    if length.target is not aten.linalg_vector_norm.default or length.kwargs or length.args[0] is not x:
        return None
    _, power, dims, keeps = (*length.args, *(2, None, False)[len(length.args) - 1 :])
    if power != 2 or not keeps or dims is None or len(dims) != 1:
        return None
    return x, dims[0] % len(shape_of(x)), eps


# ---- attention written out ----


def compose_attention(graph: Graph) -> None:
    """softmax(q k^T * scale + mask) v, written as products: one attention."""
    for node in list(graph.graph.nodes):
        if node.target not in (aten.softmax.int, aten._softmax.default) or node.args[1] not in (
            -1,
            len(shape_of(node)) - 1,
        ):
            continue
        users = list(node.users)
        if len(users) != 1 or users[0].target is not aten.matmul.default or users[0].args[0] is not node:
            continue
        found = scores_of(node.args[0])
        if found is None or len(shape_of(users[0])) != 4:
            continue
        q, keys, mask, scale = found
        k = (
            keys.args[0]
            if swaps_last(keys)
            else graph.add(users[0], aten.transpose.int, keys, -2, -1, value=keys.meta["val"].transpose(-1, -2))
        )
        made = graph.add(
            users[0],
            aten.scaled_dot_product_attention.default,
            q,
            k,
            users[0].args[1],
            mask,
            0.0,
            False,
            value=users[0].meta["val"],
        )
        made.kwargs = {"scale": scale}
        users[0].replace_all_uses_with(made)


def scores_of(node: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node | None, float] | None:
    """Queries, turned keys, mask and scale of scores."""
    mask, scale = None, 1.0
    if node.target is aten.add.Tensor:
        inner = next((a for a in node.args if isinstance(a, fx.Node) and is_scaled_product(a)), None)
        if inner is None:
            return None
        mask = next(a for a in node.args if a is not inner)
        node = inner
    if node.target in (aten.mul.Tensor, aten.div.Tensor) and isinstance(node.args[1], (int, float)):
        scale = node.args[1] if node.target is aten.mul.Tensor else 1 / node.args[1]
        node = node.args[0]
    return (node.args[0], node.args[1], mask, scale) if node.target is aten.matmul.default else None


def is_scaled_product(node: fx.Node) -> bool:
    if node.target in (aten.mul.Tensor, aten.div.Tensor) and isinstance(node.args[1], (int, float)):
        node = node.args[0]
    return node.target is aten.matmul.default


def swaps_last(node: fx.Node) -> bool:
    rank = len(shape_of(node))
    if node.target is aten.transpose.int:
        return {node.args[1] % rank, node.args[2] % rank} == {rank - 1, rank - 2}
    return False


# ---- rotations ----


def compose_rotations(graph: Graph) -> None:
    """Cuts, signs and joins that in the end only permute the last dimension: one rotation."""
    known: dict[Any, Any] = {}
    for node in list(graph.graph.nodes):
        if node.target not in (
            aten.cat.default,
            aten.stack.default,
            aten.flatten.using_ints,
            aten.view.default,
            aten.reshape.default,
        ):
            continue
        if shape_of(node)[-1] <= 2:  # pairs on their own: whole heads come later
            continue
        steps, source = moves_into(node)
        if source is None or shape_of(source) != shape_of(node) or not any(s.target is aten.neg.default for s in steps):
            continue
        key = tuple(
            (str(s.target), str([str(a) for a in s.args if not isinstance(a, fx.Node)])) for s in steps
        ) + shape_of(node)
        if key not in known:
            known[key] = as_rotation(steps, source, node)
        if known[key] is not None:
            made = graph.add(node, rotate, source, *known[key], value=node.meta["val"])
            node.replace_all_uses_with(made)


def moves_into(node: fx.Node) -> tuple[list[fx.Node], fx.Node | None]:
    """The moves between one source and a node, in order; no source where there are several or none."""
    steps: dict[fx.Node, None] = {}
    sources: set[fx.Node] = set()

    def walk(at: fx.Node) -> None:
        if at in steps or at in sources:
            return
        if at.target not in MOVES or len(steps) > 40:
            sources.add(at)
            return
        for before in at.all_input_nodes:
            walk(before)
        steps[at] = None

    walk(node)
    order = list(steps)
    for cut in order:  # a plain reading of the source is the better source
        if cut is not node and shape_of_or_none(cut) == shape_of(node) and cut.target is not aten.neg.default:
            inner, source = without_before(order, cut)
            if source is not None:
                return inner, source
    return (order, next(iter(sources))) if len(sources) == 1 else (order, None)


def without_before(order: list[fx.Node], cut: fx.Node) -> tuple[list[fx.Node], fx.Node | None]:
    """The steps after a node, if all of them come from it."""
    inner = order[order.index(cut) + 1 :]
    outside = {before for step in inner for before in step.all_input_nodes} - set(inner)
    return (inner, cut) if outside == {cut} else (order, None)


def shape_of_or_none(node: fx.Node) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else None


def as_rotation(steps: list[fx.Node], source: fx.Node, node: fx.Node) -> tuple[list[int], list[int]] | None:
    """The order and signs along the last dimension that the steps come to; None where they do anything else."""
    shape = shape_of(source)
    start = torch.arange(1, source.meta["val"].numel() + 1).reshape(shape)
    made: dict[fx.Node, Any] = {source: start}
    for step in steps:
        args = fx.node.map_arg(step.args, lambda n: made[n])
        made[step] = step.target(*args, **step.kwargs)
    size, out = shape[-1], made[node]
    signs, places = out.sign(), (out.abs() - 1)
    rows = (places // size == (start - 1) // size).all()
    first_order, first_signs = (t.reshape(-1, size)[0] for t in (places % size, signs))
    if not rows or not (places % size == first_order).all() or not (signs == first_signs).all():
        return None
    return first_order.tolist(), first_signs.tolist()


def compose_rotary(graph: Graph) -> None:
    """x * cos + rotated(x) * sin, with constant tables: one operation."""
    for node in list(graph.graph.nodes):
        if node.target is not aten.add.Tensor or not all(isinstance(a, fx.Node) for a in node.args):
            continue
        parts = [table_product(graph, part) for part in node.args]
        if None in parts:
            continue
        for (x, cos), (turned, sin) in (parts, parts[::-1]):
            if turned.target is rotate and turned.args[0] is x and shape_of(x) == shape_of(node):
                made = graph.add(node, rotary, x, cos, sin, *turned.args[1:], value=node.meta["val"])
                node.replace_all_uses_with(made)
                break


def table_product(graph: Graph, node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """A varying and a constant factor of a product."""
    if node.target is not aten.mul.Tensor or not all(isinstance(a, fx.Node) for a in node.args):
        return None
    first, second = node.args
    if graph.constant(second) is not None:
        return first, second
    return (second, first) if graph.constant(first) is not None else None


# ---- linear attention ----


def lessen_linear_attention(graph: Graph) -> None:
    """(v k^T q) / (1 k^T q), both rows of one product: sums over tokens become means, which fp16 holds."""
    for node in list(graph.graph.nodes):
        if node.target is not aten.div.Tensor or not all(isinstance(a, fx.Node) for a in node.args):
            continue
        below = node.args[1].args[0] if node.args[1].target is aten.add.Tensor else node.args[1]
        over = node.args[0]
        if not (over.target is below.target is aten.slice.Tensor and over.args[0] is below.args[0]):
            continue
        sums = over.args[0].args[0] if over.args[0].target is aten.matmul.default else None
        if getattr(sums, "target", None) is not aten.matmul.default:
            continue
        keys = sums.args[1]
        factor = 2.0 ** -(shape_of(keys)[-2] - 1).bit_length()
        with graph.graph.inserting_before(sums):
            made = graph.graph.call_function(lessened, (keys, factor))
        made.meta["val"] = keys.meta["val"]
        sums.replace_input_with(keys, made)
