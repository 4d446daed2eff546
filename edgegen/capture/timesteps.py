"""Sinusoids of a timestep stay outside a program: in fp16 they are the main loss of a plain conversion.

What a network computes from a timestep alone, up to the first layer with weights, becomes an input of its own; the
host computes it in fp32. `frequencies` tell an app how: the cosines and sines of `scale * t * frequency`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx

from edgegen.capture.passes import MOVES, Graph, aten, is_end

WAVES = {aten.sin.default, aten.cos.default}
PLAIN = MOVES | WAVES | {
    aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor, aten.exp.default, aten.to.dtype,
    aten.expand.default, aten.repeat.default, aten.type_as.default, aten.flip.default, aten.mul.Scalar,
    aten._to_copy.default, aten.to.dtype_layout, aten.squeeze.default, aten.pad.default, aten.log.default,
}  # fmt: skip
TINY = 1e-7  # of a timestep, far below a period of the fastest wave
MOST = 64  # elements of an input that can be a timestep


@dataclass(frozen=True)
class Sinusoids:
    """An input that the host computes of another: `graph` does it; `definition` says it in numbers."""

    name: str
    source: str
    graph: fx.GraphModule
    size: int
    definition: dict

    def __call__(self, value: Tensor) -> Tensor:
        return self.graph(value)


def cut_sinusoids(graph: Graph, names: dict[fx.Node, str]) -> list[tuple[fx.Node, Sinusoids]]:
    """Puts an input for everything that sines of one small input come to; `names` gives the inputs' names."""
    made = []
    for source, name in list(names.items()):
        if source.meta["val"].numel() > MOST:
            continue
        inside = reached(graph, source)
        ends = [n for n in inside if any(u not in inside for u in n.users) and has_wave(n)]
        for number, end in enumerate(ends):
            label = f"{name}_features" + (f"_{number}" if len(ends) > 1 else "")
            host = extracted(graph, source, end)
            size = end.meta["val"].shape[-1]
            definition = definition_of(host, source.meta["val"], size)
            if definition:  # what a manifest cannot tell stays in the program
                made.append((cut_at(graph, end, label), Sinusoids(label, name, host, size, definition)))
    graph.graph.eliminate_dead_code(is_impure_node=is_end)
    return made


def reached(graph: Graph, source: fx.Node) -> dict[fx.Node, None]:
    """The nodes that plain operations compute of one input and constants."""
    inside = {source: None}
    for node in graph.graph.nodes:
        varying = [n for n in node.all_input_nodes if graph.constant(n) is None]
        if node.target in PLAIN and varying and all(n in inside for n in varying):
            inside[node] = None
    return inside


def has_wave(node: fx.Node) -> bool:
    """Whether a sine or cosine is among what a node is made of."""
    return node.target in WAVES or any(has_wave(n) for n in node.all_input_nodes)


def cut_at(graph: Graph, end: fx.Node, label: str) -> fx.Node:
    """One input in the place of a node."""
    last = [n for n in graph.graph.nodes if n.op == "placeholder"][-1]
    with graph.graph.inserting_after(last):
        made = graph.graph.placeholder(label)
    made.meta["val"] = end.meta["val"]
    end.replace_all_uses_with(made)
    return made


def extracted(graph: Graph, source: fx.Node, end: fx.Node) -> fx.GraphModule:
    """The host's part as a module of its own."""
    holder, made = torch.nn.Module(), fx.Graph()
    known: dict[fx.Node, fx.Node] = {source: made.placeholder("value")}

    def copy(node: fx.Node) -> fx.Node:
        if node not in known:
            values = graph.constant(node)
            if values is None:
                known[node] = made.node_copy(node, copy)
            else:
                holder.register_buffer(node.name, values)
                known[node] = made.get_attr(node.name)
        return known[node]

    made.output(copy(end))
    return fx.GraphModule(holder, made)


def definition_of(host: fx.GraphModule, like: Tensor, size: int) -> dict:
    """Frequencies and order of the features, found by asking for them; empty where they are no plain sinusoids."""

    def at(t: float) -> np.ndarray:
        with torch.no_grad():
            return host(torch.full(tuple(like.shape), t, dtype=torch.float64)).double().reshape(-1, size)[0].numpy()

    try:
        zero, small = at(0.0), at(TINY)
    except RuntimeError:
        return {}
    cosines = zero > 0.5
    rates = np.where(cosines, 0.0, np.arcsin(np.clip(small, -1, 1)) / TINY)
    half = size // 2
    order = (
        "cos,sin" if cosines[:half].all() and not cosines[half:].any() else "sin,cos" if cosines[half:].all() else ""
    )
    if not order or size % 2:
        return {}
    sines = rates[half:] if order == "cos,sin" else rates[:half]
    return {"size": size, "order": order, "frequencies": [float(np.float32(f)) for f in sines]}
