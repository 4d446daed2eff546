"""What XNNPACK takes of a graph, cut by levels: as many delegates as a value on its way crosses, and none in a circle.

ExecuTorch's own partitioner merges pairs of parts. Each part it makes is free of cycles by itself, but two may wait for
each other ("Invalid partition, found dependency cycles": masked attention after linear attention); and it tries every
pair.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from torch import fx


def levels(graph: fx.Graph, groups: Sequence[Sequence[fx.Node]], constants: Iterable[fx.Node]) -> list[list[fx.Node]]:
    """Parts of the groups' nodes by level: a node's is the number of times the longest way to it goes into a group or
    out of one. Along an edge it never falls, and between a part and the rest it rises, so that no two parts wait for
    each other. CycleError where the groups themselves do.
    """
    constants = set(constants)
    holder: dict[fx.Node, Any] = {node: index for index, group in enumerate(groups) for node in group}
    before: dict[Any, set[Any]] = {}
    for node in graph.nodes:
        unit = holder.get(node, node)
        given = {holder.get(n, n) for n in node.all_input_nodes if n not in constants}
        before.setdefault(unit, set()).update(given - {unit})
    level: dict[Any, int] = {}
    for unit in TopologicalSorter(before).static_order():
        inside = isinstance(unit, int)
        level[unit] = max((level[b] + (isinstance(b, int) != inside) for b in before[unit]), default=0)
    parts: dict[int, list[fx.Node]] = defaultdict(list)
    for index, group in enumerate(groups):
        parts[level[index]] += group
    return [parts[key] for key in sorted(parts)]


def leveled_partitioner() -> Any:
    """An XnnpackPartitioner that cuts by levels, and as it always did where its groups wait for each other."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir.backend.canonical_partitioners.config_partitioner import is_constant_data
    from torch.fx.passes.infra.partitioner import Partition

    class Leveled(XnnpackPartitioner):
        def generate_partitions(self, ep: Any) -> list[Any]:
            groups = self.get_matched_nodes_from_configs(ep)
            constants = [n for n in ep.graph.nodes if n.op == "placeholder" and is_constant_data(ep, n)]
            try:
                parts = levels(ep.graph, groups, constants)
            except CycleError:
                return super().generate_partitions(ep)
            return [Partition(id=index, nodes=part) for index, part in enumerate(parts)]

    return Leveled()
