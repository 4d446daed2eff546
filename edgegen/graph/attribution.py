"""Which module of the network an operation of an artifact comes from, where the artifact says it of some only.

Runtimes fuse, split and add operations; what they add stands between operations whose module is known.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """An operation of a graph: values in and out, and its module's dotted name; '' when it is not known."""

    name: str
    inputs: tuple[Hashable, ...]
    outputs: tuple[Hashable, ...]
    module: str


def attribute(nodes: Sequence[Node]) -> dict[str, str]:
    """The module of every node by its name. An unknown one lies in the innermost module that holds the nearest known
    operations before and behind it: what stands between `down.0.attn.q` and `down.0.attn.o` is `down.0.attn`.
    """
    makers = {value: i for i, node in enumerate(nodes) for value in node.outputs}
    users: dict[Hashable, list[int]] = {}
    for i, node in enumerate(nodes):
        for value in node.inputs:
            users.setdefault(value, []).append(i)
    before = sweep(nodes, range(len(nodes)), lambda i: [makers[v] for v in nodes[i].inputs if v in makers])
    behind = sweep(
        nodes,
        reversed(range(len(nodes))),
        lambda i: [user for value in nodes[i].outputs for user in users.get(value, ())],
    )
    return {node.name: node.module or meet([*before[i], *behind[i]]) for i, node in enumerate(nodes)}


def sweep(nodes: Sequence[Node], order: Iterable[int], neighbours: Callable[[int], list[int]]) -> list[list[str]]:
    """The nearest known modules of each node in one direction; nodes are sorted by dependence."""
    found: list[list[str]] = [[] for _ in nodes]
    for i in order:
        near = (([nodes[j].module] if nodes[j].module else found[j]) for j in neighbours(i))
        modules = [module for some in near for module in some]
        found[i] = [meet(modules)] if modules and meet(modules) else modules[:1]
    return found


def meet(modules: Sequence[str]) -> str:
    """The innermost module that holds all of these: 'down.0.attn.q', 'down.0.attn.o' -> 'down.0.attn'."""
    if not modules:
        return ""
    parts = [module.split(".") for module in modules]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)
