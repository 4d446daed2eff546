"""ExecuTorch: a .pte lowered to XNNPACK."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgegen.capture.deploy import Deployed
from edgegen.emit.delegate_shapes import delegates_unrun
from edgegen.emit.executorch_stamp import chained
from edgegen.emit.lean import lean_capture
from edgegen.emit.palette_executorch import check, quantize_linears_
from edgegen.emit.program import exported
from edgegen.emit.xnnpack_levels import leveled_partitioner
from edgegen.emit.xnnpack_passes import needed_passes
from edgegen.quantize.stored import StoredWeights
from edgegen.quiet import quiet
from edgegen.rewrite.component import Component


def write(
    component: Component, path: Path, weights: StoredWeights | None = None, activations: str = "float32"
) -> list[str]:
    """Lowers a component to XNNPACK and saves it; returns the operations that XNNPACK did not take.

    With int8 `activations` the linear layers of `weights` become integer ones, in place (palette_executorch.py); with
    float32 ones XNNPACK can only take float32 weights.
    """
    check(weights or {}, activations)
    with quiet():
        if weights and activations == "int8":
            quantize_linears_(component.module, weights)
            component = replace(component, segments=())  # their weights are other ones now
        with lean_capture(), needed_passes(), delegates_unrun():
            buffer, left = lower(component)
    path.write_bytes(buffer)
    return left


def lower(component: Component) -> tuple[bytes, list[str]]:
    """The bytes of the .pte and the names of the operations outside XNNPACK, one entry per operation. A component in
    segments has a delegate for each that stands more than once (executorch_stamp.py).
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    foreign = isinstance(component.module, Deployed)  # whole, where ours are cut in segments
    if component.segments and not foreign:
        component = replace(component, module=chained(component), segments=())
    partitioner = leveled_partitioner() if foreign else XnnpackPartitioner()
    edge = to_edge_transform_and_lower(exported(component), partitioner=[partitioner])
    nodes = [node for node in edge.exported_program().graph.nodes if node.op == "call_function"]
    names = [getattr(node.target, "__name__", str(node.target)) for node in nodes]
    left = [name for name in names if name not in ("executorch_call_delegate", "getitem")]
    return edge.to_executorch().buffer, left
