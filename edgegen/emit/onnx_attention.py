"""Attention as ONNX Runtime's own operation, which never holds the scores of all tokens at once.

The Attention of opset 23 makes every head's table of scores on a CPU: at 4,352 tokens and 16 heads 1.2 GB.
MultiHeadAttention goes through queries and keys in blocks that fit the cache (73 MB there), and computes the same. It
does so without a mask only, so that a mask of keys becomes one more channel of queries (1) and keys (mask / scale),
whose product it is. Of few keys it takes longer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from edgegen.capture.products import LONG

DOMAIN = "com.microsoft"
Shapes = dict[str, list[int]]


def in_blocks_(model: onnx.ModelProto) -> None:
    """Puts MultiHeadAttention for each Attention of many keys, of as many heads of keys as of queries, in place."""
    graph, kept = model.graph, list(model.graph.node)
    values = (*graph.value_info, *graph.input, *graph.output)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    makers = {output: node for node in kept for output in node.output}
    del graph.node[:]
    for node in kept:
        if is_long(node, shapes) and (mask := mask_of(node, makers, shapes)) is not None:
            put_in_blocks_(graph, node, mask, shapes)
        graph.node.append(node)
    if any(node.domain == DOMAIN for node in graph.node):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        drop_unread_(graph)


def is_long(node: NodeProto, shapes: Shapes) -> bool:
    """Whether a node is Attention of (B, S, H*E) with nothing but a mask and a scale, of many keys."""
    if node.op_type != "Attention" or node.domain or len(node.output) != 1 or any(node.input[4:]):
        return False
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    heads = attributes.pop("q_num_heads", 0), attributes.pop("kv_num_heads", 0)
    attributes.pop("scale", None)
    known = node.input[0] in shapes and len(shapes.get(node.input[1], [])) == 3
    return known and heads[0] == heads[1] > 0 and not any(attributes.values()) and shapes[node.input[1]][1] >= LONG


def mask_of(node: NodeProto, makers: dict[str, NodeProto], shapes: Shapes) -> str | None:
    """The mask of keys (B, 1, 1, M) that a node adds; "" for none, None for any other."""
    name = node.input[3] if len(node.input) > 3 else ""
    if not name:
        return ""
    expand = makers.get(name)
    if expand is None or expand.op_type != "Expand":
        return None
    return expand.input[0] if shapes.get(expand.input[0], [])[1:3] == [1, 1] else None


def put_in_blocks_(graph: onnx.GraphProto, node: NodeProto, mask: str, shapes: Shapes) -> None:
    """Makes MultiHeadAttention of a node, and adds the nodes before it that a mask needs."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    heads, (q, k, v) = attributes["q_num_heads"], node.input[:3]
    scale = attributes.get("scale", (shapes[q][2] / heads) ** -0.5)
    if mask:
        q, k = masked_by_channel_(graph, node.name, (q, k, mask), heads, scale, shapes)
    del node.attribute[:], node.input[:]
    node.input.extend([q, k, v])
    node.op_type, node.domain = "MultiHeadAttention", DOMAIN
    node.attribute.extend([helper.make_attribute("num_heads", heads), helper.make_attribute("scale", scale)])


def masked_by_channel_(
    graph: onnx.GraphProto, name: str, inputs: tuple[str, str, str], heads: int, scale: float, shapes: Shapes
) -> tuple[str, str]:
    """Queries and keys (B, S, H*(E+1)) of attention, by nodes that are added."""
    q, k, mask = inputs
    (batch, queries, width), keys, size = shapes[q], shapes[k][1], shapes[q][2] // heads
    write = Writer(graph, f"{name}.masked")
    wide = write("Pad", write.shaped(q, [batch, queries, heads, size]), [0] * 7 + [1], np.float32(1))
    channel = write("Mul", write.shaped(mask, [-1, keys, 1, 1]), np.float32(1 / scale))
    channel = write("Expand", channel, [batch, keys, heads, 1])
    joined = write("Concat", write.shaped(k, [batch, keys, heads, size]), channel, axis=3)
    both = (wide, queries), (joined, keys)
    made = [write.shaped(x, [batch, rows, width + heads]) for x, rows in both]
    shapes |= {x: [batch, rows, width + heads] for x, (_, rows) in zip(made, both, strict=True)}
    return made[0], made[1]


class Writer:
    """Adds nodes to a graph, with numbers and lists as constants of it."""

    def __init__(self, graph: onnx.GraphProto, prefix: str):
        self.graph, self.prefix, self.count = graph, prefix, 0

    def __call__(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        output = self._name()
        names = [given if isinstance(given, str) else self._constant(given) for given in inputs]
        self.graph.node.append(helper.make_node(kind, names, [output], name=output, **attributes))
        return output

    def shaped(self, data: str, shape: list[int]) -> str:
        return self("Reshape", data, shape)

    def _constant(self, value: Any) -> str:
        name = self._name()
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _name(self) -> str:
        self.count += 1
        return f"{self.prefix}_{self.count}"


def drop_unread_(graph: onnx.GraphProto) -> None:
    """Drops what spread a mask over queries where nothing reads that any more."""
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [node for node in graph.node if node.op_type != "Expand" or node.output[0] in read]
    del graph.node[:]
    graph.node.extend(kept)
