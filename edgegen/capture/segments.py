"""A deployed network cut between its blocks, so that equal ones are converted once and weights can be streamed.

A block is an entry of a list of modules, such as transformer_blocks.3. A cut lies between the last use of one block's
weights and the first of the next's, where the least data crosses. What several blocks compute alike, of nothing that a
block makes, stands in the first segment.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from edgegen.capture.specialize import hold_
from edgegen.rewrite.component import Component, TensorSpec
from edgegen.rewrite.segments import Segment, structure

LEAST = 3  # blocks of a list from which it is cut
REPEATS = 2  # places of a distinct segment, on average, from which cutting pays
ENTRY = re.compile(r"(.+?)\.(\d+)\.")
CONSTANTS = "constants."  # what the writer calls tensors that are not the network's own
NEVER = 2**62  # elements across a cut that cannot be


Elsewhere = Mapping[str, Callable[[], Tensor]]  # what gives a weight that is not in memory, by its name


@dataclass(frozen=True)
class Piece(Segment):
    """A segment of a recorded network; `names` gives those of its parameters in the whole network, `specs` what it
    makes, `elsewhere` its weights that are not in memory.
    """

    names: Mapping[str, str]
    specs: tuple[TensorSpec, ...]
    elsewhere: Elsewhere

    @property
    def unfolded(self) -> bool:
        """A network of another project multiplies wherever it likes."""
        return True

    def full(self, parameter: str) -> str:
        return self.names.get(parameter) or super().full(parameter)

    def value(self, parameter: str) -> Tensor:
        held, name = self.module.get_parameter(parameter).detach(), self.names[parameter]
        return self.elsewhere[name]().reshape(held.shape) if name in self.elsewhere else held


class Block(fx.GraphModule):
    """A part of a deployed graph; `text` is what it does, the same for every block of a kind."""

    text = ""


def in_segments(component: Component, elsewhere: Elsewhere | None = None, least: float = REPEATS) -> Component:
    """The component with segments where that pays: each distinct one stands at `least` times on average."""
    segments = cut(component, elsewhere or {})
    kinds = {structure(segment.module) for segment in segments}
    return replace(component, segments=segments) if segments and len(segments) >= least * len(kinds) else component


def cut(component: Component, elsewhere: Elsewhere | None = None) -> tuple[Piece, ...]:
    """The segments of a deployed network; none where it has no list of blocks."""
    module = component.module
    assert isinstance(module, fx.GraphModule)
    lists = lists_of(module)
    uses = {node: block_of(node, lists) for node in module.graph.nodes if has_weight(node)}
    spans = spans_of([node for node in module.graph.nodes if node.op not in SETTLED], uses)
    if len(spans) < LEAST:
        return ()
    values = values_of(module, component)
    sizes = {node: crossing(value) for node, value in values.items()}
    places = placed(module.graph, spans, uses, sizes)
    if places is None or len(shared_weights(module, places)) > 0:
        return ()
    return tuple(pieces(component, places, spans, values, elsewhere or {}))


SETTLED = ("placeholder", "get_attr", "output")  # nodes that stand in no segment


# ---- where the blocks are -------------------------------------------------------------------------------------------


def has_weight(node: fx.Node) -> bool:
    """Whether a node applies a layer, or a tensor of the network's own."""
    return node.op == "call_module" or any(is_own(n) for n in node.all_input_nodes)


def is_own(node: fx.Node) -> bool:
    return node.op == "get_attr" and not str(node.target).startswith(CONSTANTS)


def lists_of(module: nn.Module) -> set[str]:
    """The lists of at least `LEAST` entries with weights, by their names."""
    found = {match.group(0) for name, _ in module.named_parameters() if (match := ENTRY.match(f"{name}."))}
    counts = Counter(entry[:-1].rpartition(".")[0] for entry in found)
    return {name for name, count in counts.items() if count >= LEAST}


def block_of(node: fx.Node, lists: set[str]) -> str:
    """The block whose weights a node applies; nothing for those of no block."""
    applied = [node] if node.op == "call_module" else filter(is_own, node.all_input_nodes)
    for one in applied:
        match = ENTRY.match(f"{one.target}.")
        if match and match[1] in lists:
            return f"{match[1]}.{match[2]}"
    return ""


def spans_of(order: Sequence[fx.Node], uses: Mapping[fx.Node, str]) -> list[tuple[str, int, int]]:
    """Every stretch of nodes that apply the weights of one block: its name, and its first and last place in `order`."""
    spans: list[tuple[str, int, int]] = []
    for at, node in enumerate(order):
        if node not in uses:
            continue
        if spans and spans[-1][0] == uses[node]:
            spans[-1] = (uses[node], spans[-1][1], at)
        else:
            spans.append((uses[node], at, at))
    return spans


# ---- where to cut ---------------------------------------------------------------------------------------------------


def values_of(module: fx.GraphModule, component: Component) -> dict[fx.Node, Any]:
    """Every value of a graph, fake."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.no_grad(), mode:
        given = [torch.empty(s.shape, dtype=getattr(torch, s.dtype)) for s in component.inputs]
        FakeTensorProp(module, mode).propagate_dont_convert_inputs(*given)
    return {node: node.meta.pop("val", None) for node in module.graph.nodes}


def crossing(value: Any) -> int:
    """What it costs to hand a value on: its elements, or more than any cut may have."""
    return value.numel() if isinstance(value, Tensor) and value.dtype is torch.float32 and value.ndim else NEVER


def placed(
    graph: fx.Graph, spans: Sequence[tuple[str, int, int]], uses: Mapping[fx.Node, str], sizes: Mapping[fx.Node, int]
) -> dict[fx.Node, int] | None:
    """The segment of every node; None where something crosses that cannot."""
    order = [node for node in graph.nodes if node.op not in SETTLED]
    cuts = [best_cut(order, before, after[1], sizes) for before, after in zip(spans, spans[1:], strict=False)]
    places, segment = {}, 0
    for at, node in enumerate(order):
        while segment < len(cuts) and at >= cuts[segment]:
            segment += 1
        places[node] = segment
    hoist_(places, uses)
    crossed = [n for n in places if sizes[n] >= NEVER and any(places.get(u, places[n]) != places[n] for u in n.users)]
    return None if crossed else places


def best_cut(order: Sequence[fx.Node], before: tuple[str, int, int], first: int, sizes: Mapping[fx.Node, int]) -> int:
    """The place behind a stretch of nodes and up to `first` in front of which the fewest elements are still needed."""
    _, start, last = before
    places = {node: at for at, node in enumerate(order[start : first + 1], start)}
    ends = {node: max((places.get(user, first + 1) for user in node.users), default=0) for node in places}

    def crossed(at: int) -> int:
        return sum(sizes[node] for node, made in places.items() if made < at <= ends[node])

    return min(range(last + 1, first + 1), key=lambda at: (crossed(at), at))


def hoist_(places: dict[fx.Node, int], uses: Mapping[fx.Node, str]) -> None:
    """Moves to the first segment what several read and nothing but the first segment and the inputs goes into."""
    early: set[fx.Node] = set()
    for node, place in places.items():
        if place == 0 or (node not in uses and all(n in early for n in node.all_input_nodes if n in places)):
            early.add(node)
    for node in reversed(list(places)):
        if node in early and (len(found := readers(node, places)) > 1 or 0 in found):
            places[node] = 0


def readers(node: fx.Node, places: Mapping[fx.Node, int]) -> set[int]:
    """The segments that read a value."""
    return {places[user] for user in node.users if user in places}


def shared_weights(module: fx.GraphModule, places: Mapping[fx.Node, int]) -> list[str]:
    """Tensors of the network's own, and layers, that several segments use."""
    found: dict[str, set[int]] = {}
    for node in module.graph.nodes:
        if is_own(node):
            found.setdefault(str(node.target), set()).update(readers(node, places))
        elif node.op == "call_module":
            found.setdefault(str(node.target), set()).add(places[node])
    return [name for name, segments in found.items() if len(segments) > 1]


# ---- the pieces -----------------------------------------------------------------------------------------------------


def pieces(
    component: Component,
    places: Mapping[fx.Node, int],
    spans: Sequence[tuple[str, int, int]],
    values: Mapping[fx.Node, Any],
    elsewhere: Elsewhere,
) -> Iterator[Piece]:
    """Every segment in order."""
    module = component.module
    assert isinstance(module, fx.GraphModule)
    ends = dict(zip(module.graph.output_node().args[0], [spec.name for spec in component.outputs], strict=True))
    names = {node: str(node.target) for node in module.graph.nodes if node.op == "placeholder"}
    blocks = [block for block, _, _ in spans]
    for segment, (label, block) in enumerate(zip(labelled(blocks), blocks, strict=True)):
        nodes = [node for node, place in places.items() if place == segment]
        given = list(dict.fromkeys(n for node in nodes for n in node.all_input_nodes if is_given(n, places, segment)))
        made = [node for node in nodes if node in ends or any(places.get(u, segment) != segment for u in node.users)]
        names |= {node: ends.get(node) or f"{label}.{index}" for index, node in enumerate(made)}
        writer = PieceWriter(module, block, label, places)
        body = Block(writer.root, writer.write(nodes, given, made)).eval()
        body.text = text_of(body.graph)
        taken, gives = (tuple(names[node] for node in side) for side in (given, made))
        specs = tuple(TensorSpec(names[node], tuple(values[node].shape)) for node in made)
        own = {name: elsewhere[name] for name in writer.names.values() if name in elsewhere}
        yield Piece(label, block, body, taken, gives, writer.names, specs, own)


def is_given(node: fx.Node, places: Mapping[fx.Node, int], segment: int) -> bool:
    """Whether a segment has a value from outside it."""
    return node.op == "placeholder" or (node in places and places[node] != segment)


def labelled(blocks: Sequence[str]) -> list[str]:
    """A name for each segment: its block, or what it lies behind; numbered where that repeats."""
    seen: Counter[str] = Counter()
    made = []
    for index, block in enumerate(blocks):
        base = block or ("begin" if index == 0 else "end")
        seen[base] += 1
        made.append(base if seen[base] == 1 else f"{base}.part{seen[base]}")
    return made


class PieceWriter:
    """Copies nodes to a graph of their own; `root` gets their weights, under names relative to the block."""

    def __init__(self, module: fx.GraphModule, block: str, label: str, places: Mapping[fx.Node, int]):
        self.module, self.block, self.label, self.places = module, block, label, places
        self.root, self.graph = nn.Module(), fx.Graph()
        self.names: dict[str, str] = {}
        self.nodes: dict[fx.Node, fx.Node] = {}
        self.held = 0

    def write(self, nodes: Sequence[fx.Node], given: Sequence[fx.Node], made: Sequence[fx.Node]) -> fx.Graph:
        """The graph of nodes that takes and gives these values."""
        for index, node in enumerate(given):
            self.nodes[node] = self.graph.placeholder(f"given_{index}")
        for node in nodes:
            for before in node.all_input_nodes:
                if before.op == "get_attr" and before not in self.nodes:
                    self.nodes[before] = self.graph.get_attr(self.tensor(before))
            self.nodes[node] = self.graph.node_copy(node, self.nodes.__getitem__)
            self.nodes[node].meta.clear()
            if node.op == "call_module":
                self.nodes[node].target = self.layer(str(node.target))
        self.graph.output(tuple(self.nodes[node] for node in made))
        return self.graph

    def relative(self, name: str) -> str:
        """A name as every block of the kind has it."""
        inside = f"{self.block}."
        if not self.block:
            return name
        if name == self.block:
            return "layer"
        return name.removeprefix(inside) if name.startswith(inside) else f"outer.{name}"

    def layer(self, name: str) -> str:
        """Puts a layer into the root; the name it has there."""
        layer, made = self.module.get_submodule(name), self.relative(name)
        folder_of(self.root, made).add_module(made.rpartition(".")[2], layer)
        self.names |= {f"{made}.{key}": f"{name}.{key}" for key, _ in layer.named_parameters()}
        return made

    def tensor(self, node: fx.Node) -> str:
        """Puts a tensor into the root: one that is not the network's own, and that several segments read, as a buffer,
        which all of them share.
        """
        name, value = str(node.target), attribute(self.module, str(node.target)).detach()
        made, full = self.relative(name), name
        if not is_own(node):
            made, self.held = f"held.c{self.held}", self.held + 1
            full = f"{self.label}.{made}"
        if not is_own(node) and (len(readers(node, self.places)) > 1 or value.numel() == 1):
            folder_of(self.root, made).register_buffer(made.rpartition(".")[2], value)
        else:
            hold_(self.root, made, value)
            self.names[made] = full
        return made


def folder_of(root: nn.Module, name: str) -> nn.Module:
    """The module in which something under a dotted name lies; made where it is not there."""
    for folder in name.split(".")[:-1]:
        if not hasattr(root, folder):
            root.add_module(folder, nn.Module())
        root = getattr(root, folder)
    return root


def attribute(module: nn.Module, name: str) -> Tensor:
    """A tensor of a module by its dotted name."""
    *folders, last = name.split(".")
    return getattr(module.get_submodule(".".join(folders)), last)


def text_of(graph: fx.Graph) -> str:
    """What a graph does, line by line, with its values numbered."""
    numbers = {node: f"%{index}" for index, node in enumerate(graph.nodes)}
    told = lambda value: fx.node.map_aggregate(value, lambda a: numbers[a] if isinstance(a, fx.Node) else a)  # noqa: E731
    return "\n".join(
        f"{node.op} {node.target if isinstance(node.target, str) else name_of(node.target)} {told(node.args)} "
        f"{told(node.kwargs)}"
        for node in graph.nodes
    )


def name_of(function: Any) -> str:
    """A function by module and name, or an operator by its own."""
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', function)}"
