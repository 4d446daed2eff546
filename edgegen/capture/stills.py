"""Networks for videos that are given one frame: what they do over time is left out.

A causal convolution over frames fills what lies before the first with zeros, which its kernel meets in vain: of its
weight one slice is used, and a convolution of pictures with that slice gives the same, in a third of the products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from edgegen.capture.passes import Graph, is_end, shape_of

aten = torch.ops.aten
PADS = (aten.pad.default, aten.constant_pad_nd.default)


class Still(NamedTuple):
    """A convolution over frames that sees one: the picture, the slice of the kernel for it, rows and columns added."""

    picture: fx.Node
    index: int
    margin: tuple[int, int]


def flatten_frames(graph: Graph, names: dict[int, str]) -> None:
    """Puts a convolution of pictures for each one over frames that sees a single frame; its weight keeps its name."""
    slices: dict[tuple[str, int], fx.Node] = {}
    for node in list(graph.graph.nodes):
        if node.target is not aten.conv3d.default:
            continue
        _, weight, bias, stride, padding, dilation, groups = arguments(node)
        still = still_of(node, padding, dilation)
        if still is None or graph.constant(weight) is None:
            continue
        key = weight.name, still.index
        if key not in slices:
            slices[key] = sliced(graph, node, weight, still.index, names)
        picture = graph.add(node, aten.select.int, still.picture, 2, 0, value=still.picture.meta["val"].select(2, 0))
        rest = bias, stride[1:], list(still.margin), dilation[1:], groups
        made = graph.add(node, aten.conv2d.default, picture, slices[key], *rest, value=node.meta["val"].select(2, 0))
        node.replace_all_uses_with(graph.add(node, aten.unsqueeze.default, made, 2, value=node.meta["val"]))
    graph.graph.eliminate_dead_code(is_impure_node=is_end)


def arguments(node: fx.Node) -> tuple[Any, ...]:
    """Those of a call, with what they are where they are left out."""
    values = (None, None, None, 1, 0, 1, 1)
    given = (*node.args, *values[len(node.args) :])
    threes = [[v] * 3 if isinstance(v, int) else list(v) * (3 // len(v)) for v in given[3:6]]
    return (*given[:3], *threes, given[6])


def still_of(node: fx.Node, padding: Sequence[int], dilation: Sequence[int]) -> Still | None:
    """How a convolution over frames sees its only frame; None where it sees more, or makes more."""
    x, amounts = node.args[0], [0] * 6
    if x.target in PADS and is_zero_padding(x):
        amounts = [*x.args[1], *[0] * 6][:6]
        x = x.args[0]
    left, right, top, bottom, before, _ = amounts
    place = before + padding[0]
    fits = shape_of(x)[2] == shape_of(node)[2] == 1 and left == right and top == bottom
    if not fits or place % dilation[0] or place // dilation[0] >= shape_of(node.args[1])[2] or min(amounts) < 0:
        return None
    return Still(x, place // dilation[0], (top + padding[1], left + padding[2]))


def is_zero_padding(node: fx.Node) -> bool:
    """Whether a call pads with zeros alone."""
    rest = node.args[2:]
    return not node.kwargs and all(value in ("constant", 0, 0.0, None) for value in rest)


def sliced(graph: Graph, before: fx.Node, weight: fx.Node, index: int, names: dict[int, str]) -> fx.Node:
    """A slice of a weight (O, I, T, h, w), which takes over its name unless the whole is read elsewhere."""
    whole = graph.constants[weight.name]
    value: Tensor = whole[:, :, index].contiguous()
    made = graph.add_constant(before, value)
    if names.get(id(whole)) and len(weight.users) == 1:
        names[id(value)] = names[id(whole)]
    return made
