"""ONNX Runtime's profile of a file, joined to modules through the optimized graph it really ran."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgegen.graph.attribution import Node, attribute
from edgegen.graph.timed import TimedOperation
from edgegen.runtime.onnx import import_onnxruntime

EVENT = "_kernel_time"


def profile_onnx(path: Path, feed: Mapping[str, np.ndarray], threads: int, count: int) -> list[TimedOperation]:
    """The operations of an ONNX file as ONNX Runtime fused them."""
    with tempfile.TemporaryDirectory() as folder:
        events, optimized = run_profiled(path, feed, threads, count, Path(folder))
        modules = attribute(nodes_of(path, optimized))
    durations, starts, kinds = defaultdict(list), {}, {}
    for event in events:
        name = event["name"].removesuffix(EVENT)
        durations[name].append(event["dur"])
        starts[name], kinds[name] = event["ts"], event["args"]["op_name"]
    first = min(starts.values())
    made = [
        TimedOperation(
            name,
            kinds[name],
            modules.get(name, ""),
            statistics.median(runs[1:] or runs) / 1e3,
            (starts[name] - first) / 1e3,
        )
        for name, runs in durations.items()
    ]
    return sorted(made, key=lambda operation: operation.start_ms)


def run_profiled(
    path: Path, feed: Mapping[str, np.ndarray], threads: int, count: int, folder: Path
) -> tuple[list[dict], Path]:
    """The node events of `count` + 1 runs, and the optimized graph."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # it warns that the optimized graph suits this machine only
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for _ in range(count + 1):
        session.run(None, dict(feed))
    events = json.loads(Path(session.end_profiling()).read_text())
    return [event for event in events if event.get("cat") == "Node"], folder / "optimized.onnx"


def nodes_of(path: Path, optimized: Path) -> list[Node]:
    """The optimized graph's operations with the modules of the file's own: a fusion is called after one it swallowed,
    `node_MatMul_23/MatMulAddFusion`, and what has a weight lies in the weight's module.
    """
    import onnx

    from edgegen.emit.onnx_template import module_of

    original = onnx.load(str(path), load_external_data=False).graph
    modules = {node.name: module_of(node) for node in original.node}
    weights = {tensor.name: tensor.name.rpartition(".")[0] for tensor in original.initializer if "." in tensor.name}

    def module(node: onnx.NodeProto) -> str:
        known = modules.get(node.name) or modules.get(node.name.split("/")[0], "")
        return known or next((weights[value] for value in node.input if value in weights), "")

    return [
        Node(node.name, tuple(filter(None, node.input)), tuple(filter(None, node.output)), module(node))
        for node in onnx.load(str(optimized), load_external_data=False).graph.node
    ]
