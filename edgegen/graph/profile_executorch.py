"""ExecuTorch's event trace of a .pte, joined to modules through the XNNPACK graphs inside it.

The wheel's runtime records every XNNPACK operation. A .pte names no modules, but it stores weights under the sha256 of
their bytes, which the checkpoint's own weights share.
"""

from __future__ import annotations

import re
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgegen.errors import EdgegenError
from edgegen.graph.attribution import Node, attribute
from edgegen.graph.read_executorch import read_program, xnnpack_graph
from edgegen.graph.timed import TimedOperation
from edgegen.quiet import quietly

DELEGATE = "DELEGATE_CALL"  # follows the operations of one XNNPACK graph
WRAPPERS = ("OPERATOR_CALL", "Method::execute", DELEGATE)
LOOKAHEAD = 16  # operations that XNNPACK may have dropped in a row
RENAMED = {"square": ("multiply",), "copy": ("concatenate", "reshape", "copy"), "convolution": ("conv", "depthwise")}


def profile_executorch(
    path: Path, inputs: Sequence[np.ndarray], count: int, modules: Mapping[str, str]
) -> list[TimedOperation]:
    """The operations of a .pte as the runtime ran them; `modules` names the module of a weight by its sha256."""
    events = run_profiled(path, [torch.from_numpy(value) for value in inputs], count)
    graphs = iter(xnnpack_graphs(path, modules))
    first = min(event.start_time[-1] for event in events if not is_wrapper(event))
    made: list[TimedOperation] = []
    pending: list[Any] = []
    for event in events:
        if event.name == DELEGATE:
            made += joined(pending, next(graphs), first)
            pending = []
        elif event.name.startswith("native_call_"):
            made.append(operation(event, event.name.removeprefix("native_call_"), "", first))
        elif not is_wrapper(event):
            pending.append(event)
    return sorted(made, key=lambda operation: operation.start_ms)


def is_wrapper(event: Any) -> bool:
    """Whether an event holds the time of what it calls."""
    return event.name in WRAPPERS


def run_profiled(path: Path, inputs: list[torch.Tensor], count: int) -> list[Any]:
    """The events of `count` + 1 runs of a .pte; each holds the milliseconds of every run."""
    from executorch.devtools import Inspector
    from executorch.runtime import Runtime, Verification

    program = Runtime.get().load_program(path, verification=Verification.Minimal, enable_etdump=True)
    method = program.load_method("forward")
    if method is None or not program._program.has_etdump():
        raise EdgegenError("this build of ExecuTorch records no events.", "Profile onnx.")
    for _ in range(count + 1):
        method.execute(inputs)
    with tempfile.TemporaryDirectory() as folder:
        dump = f"{folder}/events.etdp"
        program.write_etdump_result_to_file(dump, f"{folder}/debug.bin")
        blocks = quietly(lambda: Inspector(etdump_path=dump).event_blocks)
    return [event for block in blocks if block.name == "Execute" for event in block.events]


def operation(event: Any, kind: str, module: str, first: int) -> TimedOperation:
    runs = event.perf_data.raw
    began = (event.start_time[-1] - first) / 1e6
    return TimedOperation(event.name, kind, module, statistics.median(runs[1:] or runs), began)


def joined(events: Sequence[Any], nodes: Sequence[Node], first: int) -> list[TimedOperation]:
    """The operations of one XNNPACK graph: events come in the graph's order, with some of its nodes fused away."""
    modules, at, last, made = attribute(nodes), 0, "", []
    for event in events:
        kind = re.sub(r" #\d+$", "", event.name)
        for i in range(at, min(at + LOOKAHEAD, len(nodes))):
            if is_same(kind, nodes[i].name):
                at, last = i + 1, modules[nodes[i].name]
                break
        made.append(operation(event, kind, last, first))
    return made


def is_same(event_kind: str, node: str) -> bool:
    """Whether an event such as 'Fully Connected (NC, F32) GEMM' can be of a node such as 'StaticReshape 12'."""
    event = re.sub(r"\W", "", event_kind.split("(")[0]).lower()
    kind = node.split()[0].removeprefix("Static").lower()
    return any(kind.startswith(name) for name in RENAMED.get(event, (event.removeprefix("static"),)))


def xnnpack_graphs(path: Path, keys: Mapping[str, str]) -> Iterable[list[Node]]:
    """The nodes of each XNNPACK graph of a .pte in the order the program calls them, those with a weight named."""
    file, schema = quietly(lambda: read_program(path))
    for plan in file.program.execution_plan:
        for instruction in (i for chain in plan.chains for i in chain.instructions):
            call = instruction.instr_args
            if isinstance(call, schema.DelegateCall):
                data = plan.delegates[call.delegate_index].processed.index
                yield graph_nodes(xnnpack_graph(file.program.backend_delegate_data[data].data), keys)


def graph_nodes(graph: Mapping[str, Any], keys: Mapping[str, str]) -> list[Node]:
    """The nodes of one decoded graph; in its JSON a number that is 0 is left out."""
    constants = graph.get("constant_data", [])
    named: dict[int, str] = {}
    for value in graph["xvalues"]:
        tensor = value["xvalue_union"].get("tensor_value", value["xvalue_union"])
        index = tensor.get("constant_buffer_idx", 0)
        named[tensor.get("id_out", 0)] = keys.get(constants[index].get("named_key", ""), "") if index else ""
    nodes = []
    for number, node in enumerate(graph["xnodes"]):
        union = {key: value for key, value in node["xnode_union"].items() if key.endswith("_id")}
        inputs = tuple(value for key, value in union.items() if key != "output_id")
        module = next((named[value] for value in inputs if named.get(value)), "")
        kind = re.sub(r"^_?XNN", "", node["xnode_union_type"])
        nodes.append(Node(f"{kind} {number}", inputs, (union.get("output_id", 0),), module))
    return nodes
