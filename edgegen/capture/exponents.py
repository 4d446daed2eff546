"""Powers of two that keep the numbers of a deployed network within fp16, chosen by how large they are in fp32.

A value v is held as v * 2^-s. Most operations carry s along: a product has the sum of its factors', a sum asks for the
same s in all it adds, a norm has s = 0 again. Where a result would be too large, what it is made of is scaled first;
what cannot be scaled (a softmax, a sigmoid, the network's outputs) gets its values back as they are. A norm whose
squares are too large divides each token by its own largest number: in many networks few tokens have large ones. Weights
stay what they are; biases and added numbers are scaled, and multiplications by a power of two are written where s
changes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from edgegen.errors import EdgegenError
from edgegen.model.states import FP16_MAX

HEADROOM = 4.0  # other inputs than those measured make other numbers
LARGEST = FP16_MAX / HEADROOM
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
aten = torch.ops.aten
Rule = Callable[["Mend", fx.Node, int], int]


class Ranges(fx.Interpreter):
    """Runs a graph; `largest` has the largest |value| of every node, infinite where one is not finite."""

    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.largest: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        made = super().run_node(n)
        if isinstance(made, Tensor) and made.is_floating_point() and made.numel():
            peak = float(made.abs().max())
            self.largest[n.name] = max(self.largest.get(n.name, 0.0), peak if math.isfinite(peak) else math.inf)
        return made


@torch.no_grad()
def ranges_of(module: fx.GraphModule, feeds: Iterable[Sequence[Tensor]]) -> dict[str, float]:
    """The largest |value| of every node of a graph over several inputs."""
    ranges = Ranges(module)
    for feed in feeds:
        ranges.run(*feed)
    return ranges.largest


def mend_(module: fx.GraphModule, largest: Mapping[str, float]) -> dict[str, int]:
    """Scales in place what would leave fp16; the exponent s of every operation that has one now, by the layer it
    follows. EdgegenError names what cannot be scaled.
    """
    mend = Mend(module, largest)
    for node in list(module.graph.nodes):
        mend.visit_(node)
    module.graph.lint()
    module.recompile()
    return mend.told


class Mend:
    """One pass over a graph in order: `exponents` of the nodes so far, and where each of them comes from."""

    def __init__(self, module: fx.GraphModule, largest: Mapping[str, float]):
        self.module, self.graph, self.largest = module, module.graph, dict(largest)
        self.exponents: dict[fx.Node, int] = {}
        self.places: dict[fx.Node, str] = {}
        self.layers: dict[str, int] = {}  # exponents that biases were scaled by
        self.told: dict[str, int] = {}
        self._scaled: dict[tuple[fx.Node, int], fx.Node] = {}

    def visit_(self, node: fx.Node) -> None:
        self.places[node] = self.place_of(node)
        if (steps := norm_of(node)) and self.least(node) > 2 * self.exponents[node.args[0]]:
            self.bound_rows_(node, steps)
        rule = RULES.get(node.target) if node.op == "call_function" else None
        if node.op == "call_module" and isinstance(self.module.get_submodule(str(node.target)), LAYERS):
            rule = layer
        if node.op in ("placeholder", "get_attr") or rule is None:
            self.as_it_is_(node)
            return
        made = rule(self, node, self.least(node))
        self.exponents[node] = made
        self.require_held(node)
        if made < 0 and rule is not inverse_root:  # held larger than it is; a root is, for it may be very small
            self.back_(node)
        elif made:
            self.told[self.places[node]] = max(made, self.told.get(self.places[node], 0))

    def bound_rows_(self, square: fx.Node, steps: Sequence[fx.Node]) -> None:
        """Divides what a norm takes by the largest of each token, where that is above 1: the norm is the same, and a
        token of large numbers does not make the squares of others vanish.
        """
        x, place, call = square.args[0], self.places[square.args[0]], self.graph.call_function
        self.told[place] = max(math.ceil(self.least(square) / 2), self.told.get(place, 0))  # what the root of it needs
        with self.graph.inserting_before(square):
            largest = call(torch.amax, (call(torch.abs, (x,)), 1, True))
            bounded = call(operator.truediv, (x, call(torch.clamp, (largest, 1.0))))
        self.exponents[bounded], self.places[bounded] = self.exponents[x], place
        for user in (square, *steps[-1].users):
            user.replace_input_with(x, bounded)
        self.largest |= dict.fromkeys((square.name, *(step.name for step in steps)), 0.0)  # now within fp16

    def place_of(self, node: fx.Node) -> str:
        """The layer a node is, or comes after."""
        if node.op == "call_module":
            return str(node.target)
        found = [self.places[n] for n in node.all_input_nodes if self.places.get(n)]
        return found[0] if found else str(node.target) if node.op == "placeholder" else ""

    def as_it_is_(self, node: fx.Node) -> None:
        """What takes its values unscaled, and gives them so."""
        for given in node.all_input_nodes:
            if self.exponents[given]:
                self.require_held(given, 0)
                node.replace_input_with(given, self.scaled(given, 0, node))
        self.exponents[node] = 0
        self.require_held(node)

    def require_held(self, node: fx.Node, exponent: int | None = None) -> None:
        """Refuses a node that fp16 does not hold at an exponent, its own if none is given."""
        exponent = self.exponents[node] if exponent is None else exponent
        if self.largest.get(node.name, 0.0) * 2.0**-exponent > FP16_MAX:
            raise self.refusal(node)

    def least(self, node: fx.Node) -> int:
        """The least exponent at which fp16 holds a node, with headroom; negative where it could be held larger."""
        peak = self.largest.get(node.name, 0.0)
        if not math.isfinite(peak):
            raise self.refusal(node)
        return math.ceil(math.log2(peak / LARGEST)) if peak else -64

    def refusal(self, node: fx.Node) -> EdgegenError:
        peak, name = self.largest.get(node.name, math.inf), getattr(node.target, "__name__", str(node.target))
        place = f" after {self.places[node]}" if self.places.get(node) and self.places[node] != name else ""
        return EdgegenError(
            f"{name}{place} reaches {peak:.3g}, beyond fp16's {FP16_MAX:.0f}, and cannot be scaled by a power of two.",
            "Choose --backend onnx or executorch, which compute in fp32.",
        )

    # ---- rewriting ----

    def scaled(self, value: Any, exponent: int, user: fx.Node) -> Any:
        """A value at another exponent, made before its first user."""
        if isinstance(value, (int, float)):
            return value * 2.0**-exponent
        now = self.exponents[value]
        if now == exponent:
            return value
        key = value, exponent
        if key not in self._scaled:
            with self.graph.inserting_before(user):
                made = self.multiplied(value, 2.0 ** (now - exponent))
            self._scaled[key] = made
            self.exponents[made], self.places[made] = exponent, self.places[value]
        return self._scaled[key]

    def multiplied(self, value: fx.Node, factor: float) -> fx.Node:
        """A value times a number; a constant is another constant then."""
        if value.op != "get_attr":
            return self.graph.call_function(operator.mul, (value, factor))
        whole = operator.attrgetter(str(value.target))(self.module)
        name = f"scaled_{len(self._scaled)}"
        self.module.register_buffer(name, whole.detach() * factor)
        return self.graph.get_attr(name)

    def back_(self, node: fx.Node) -> None:
        """Puts a node that is held larger than it is at exponent 0 for all that reads it."""
        with self.graph.inserting_after(node):
            made = self.graph.call_function(operator.mul, (node, 2.0 ** self.exponents[node]))
        node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
        self.exponents[made], self.places[made] = 0, self.places[node]

    def at(self, value: Any) -> int:
        return self.exponents[value] if isinstance(value, fx.Node) else 0


def norm_of(square: fx.Node) -> list[fx.Node]:
    """Mean, sum and root behind the square of channels that a norm multiplies by that root; none for any other node."""
    if square.target not in (torch.mul, operator.mul) or square.args[0] is not square.args[1]:
        return []
    steps: list[fx.Node] = []
    node = square
    for target in (torch.mean, torch.add, torch.rsqrt):
        user = next(iter(node.users), node)
        if len(node.users) != 1 or user.target is not target or (target is torch.mean and user.args[1:] != (1, True)):
            return []
        steps.append(user)
        node = user
    reads = all(user.target in (torch.mul, operator.mul) and square.args[0] in user.args for user in node.users)
    return steps if reads else []


# ---- rules: (mend, node, the least exponent its result needs) -> the exponent it has, its arguments rewritten ----


def carried(mend: Mend, node: fx.Node, least: int) -> int:
    """What moves, cuts or averages its first argument."""
    x, *rest = node.args
    exponent = max(mend.at(x), least)
    node.args = (mend.scaled(x, exponent, node), *rest)
    return exponent


def summed(mend: Mend, node: fx.Node, least: int) -> int:
    """What adds, joins or chooses among its arguments."""
    first = next(iter(node.args))
    chosen = list(first) if isinstance(first, (list, tuple)) else list(node.args[:2])
    exponent = max(0, least, *(mend.at(value) for value in chosen))
    made = [mend.scaled(value, exponent, node) for value in chosen]
    node.args = (made, *node.args[1:]) if isinstance(first, (list, tuple)) else (*made, *node.args[2:])
    return exponent


def chosen_by(mend: Mend, node: fx.Node, least: int) -> int:
    """where(condition, x, y)."""
    condition, *values = node.args
    exponent = max(0, least, *(mend.at(value) for value in values))
    node.args = (condition, *(mend.scaled(value, exponent, node) for value in values))
    return exponent


def multiplied(mend: Mend, node: fx.Node, least: int) -> int:
    """A product; where it is too large the larger factor is scaled first."""
    places = [i for i, value in enumerate(node.args[:3]) if isinstance(value, fx.Node)]
    exponent = sum(mend.at(node.args[i]) for i in places)
    if exponent < least:
        varying = [i for i in places if node.args[i].op != "get_attr"] or places
        place = max(varying, key=lambda i: mend.largest.get(node.args[i].name, 0.0))
        value, args = node.args[place], list(node.args)
        args[place] = mend.scaled(value, mend.at(value) + least - exponent, node)
        node.args, exponent = tuple(args), least
    return exponent


def divided(mend: Mend, node: fx.Node, least: int) -> int:
    x, y = node.args[:2]
    exponent = max(mend.at(x) - mend.at(y), least)
    node.args = (mend.scaled(x, exponent + mend.at(y), node) if isinstance(x, fx.Node) else x, y, *node.args[2:])
    return exponent if isinstance(x, fx.Node) else -mend.at(y)


def inverse_root(mend: Mend, node: fx.Node, least: int) -> int:
    x = node.args[0]
    even = mend.at(x) + mend.at(x) % 2
    node.args = (mend.scaled(x, even, node),)
    return -even // 2


def convolved(mend: Mend, node: fx.Node, least: int) -> int:
    """A convolution or projection with constants for weight and bias."""
    x, weight, *rest = node.args
    exponent = max(mend.at(x), least)
    bias = [mend.scaled(rest[0], exponent, node)] if rest and rest[0] is not None else rest[:1]
    node.args = (mend.scaled(x, exponent, node), weight, *bias, *rest[1:])
    return exponent


def layer(mend: Mend, node: fx.Node, least: int) -> int:
    """A layer with a weight of its own; one that is called again has the exponent that its bias has."""
    name, x = str(node.target), node.args[0]
    exponent = mend.layers.get(name, max(mend.at(x), least))
    made: Any = mend.module.get_submodule(name)
    if name not in mend.layers and made.bias is not None and exponent:
        made.bias = nn.Parameter(made.bias.detach() * 2.0**-exponent, requires_grad=False)
    mend.layers[name] = exponent
    node.args = (mend.scaled(x, exponent, node),)
    return exponent


def normed(mend: Mend, node: fx.Node, least: int) -> int:
    """group_norm: its input small enough for squares, its eps as much smaller."""
    x, groups, weight, bias, eps = (*node.args, *(node.kwargs.get(k) for k in ("weight", "bias", "eps")))[:5]
    peak = mend.largest.get(x.name, 0.0)
    exponent = max(mend.at(x), math.ceil(math.log2(peak / math.sqrt(LARGEST))) if peak else 0, 0)
    eps = (1e-5 if eps is None else eps) * 4.0**-exponent
    node.args, node.kwargs = (mend.scaled(x, exponent, node), groups, weight, bias, eps), {}
    return 0


RULES: dict[Any, Rule] = {
    **dict.fromkeys(
        (torch.reshape, torch.permute, torch.transpose, torch.mean, torch.sum, torch.pixel_shuffle, F.relu, torch.relu,
         torch.pixel_unshuffle, torch.Tensor.expand, torch.Tensor.repeat, aten.slice.Tensor, torch.neg, operator.neg,
         aten.upsample_nearest2d.vec, F.pixel_shuffle, F.pixel_unshuffle),
        carried,
    ),
    **dict.fromkeys((torch.add, operator.add, torch.sub, operator.sub, torch.cat), summed),
    **dict.fromkeys((torch.mul, operator.mul, torch.matmul, torch.bmm, torch.einsum), multiplied),
    **dict.fromkeys((operator.truediv, torch.div), divided),
    **dict.fromkeys((F.conv2d, torch.conv2d, F.linear), convolved),
    torch.rsqrt: inverse_root,
    torch.where: chosen_by,
    F.group_norm: normed,
}  # fmt: skip
