"""ExecuTorch: a .pte lowered to XNNPACK."""

from __future__ import annotations

from pathlib import Path

from edgegen.emit.program import exported
from edgegen.quiet import quiet
from edgegen.rewrite.component import Component


def write(component: Component, path: Path) -> list[str]:
    """Lowers a component to XNNPACK and saves it; returns the operations that XNNPACK did not take."""
    with quiet():
        buffer, left = lower(component)
    path.write_bytes(buffer)
    return left


def lower(component: Component) -> tuple[bytes, list[str]]:
    """The bytes of the .pte and the names of the operations outside XNNPACK, one entry per operation."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    edge = to_edge_transform_and_lower(exported(component), partitioner=[XnnpackPartitioner()])
    nodes = [node for node in edge.exported_program().graph.nodes if node.op == "call_function"]
    names = [getattr(node.target, "__name__", str(node.target)) for node in nodes]
    left = [name for name in names if name not in ("executorch_call_delegate", "getitem")]
    return edge.to_executorch().buffer, left
