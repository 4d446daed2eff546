"""Foreign networks beside a plain torch.onnx.export and a plain coremltools conversion: speed, PSNR, operations.

    python benchmarks/foreign_networks/compare.py [FAMILY ...] [--coreml] [--out FILE]

Each family has published head sizes, a reduced number of layers and random weights. Both ONNX files are timed in one
process, one run of one after one run of the other, and the smallest time of each counts; a row is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from foreign import FAMILIES, source  # noqa: E402

from edgegen.capture.deploy import deploy  # noqa: E402
from edgegen.emit import coreml  # noqa: E402
from edgegen.emit import onnx as emit_onnx  # noqa: E402
from edgegen.foreign.export import Recorded, record  # noqa: E402
from edgegen.quiet import quiet  # noqa: E402
from edgegen.rewrite.component import Form  # noqa: E402
from edgegen.runtime.coreml import CoreMLProgram  # noqa: E402
from edgegen.runtime.onnx import import_onnxruntime  # noqa: E402
from edgegen.verify import psnr  # noqa: E402

SIZES = {  # heads, channels a head, layers
    "pixart": (16, 72, 2), "sana": (20, 32, 2), "sd3": (12, 64, 2), "lumina_next": (8, 96, 2), "lumina2": (8, 96, 2),
    "flux": (8, 128, 1), "flux2": (8, 128, 1), "qwen_image": (8, 128, 1), "z_image": (8, 128, 2),
}  # fmt: skip
GRID, TOKENS, ROUNDS = 32, 64, 7


class Called(torch.nn.Module):
    """A module under the names of its varying inputs, as a plain export takes it."""

    def __init__(self, recorded: Recorded):
        super().__init__()
        self.module, self.arguments = recorded.source.module, recorded.source.arguments

    def forward(self, **values: Any) -> Any:
        return self.module(**(dict(self.arguments) | values), return_dict=False)[0]


def plain_onnx(recorded: Recorded, path: Path) -> None:
    """What torch.onnx.export makes of the module."""
    varying = {k: v for k, v in recorded.source.arguments.items() if k not in recorded.source.constant and contains(v)}
    with quiet():
        program = torch.onnx.export(Called(recorded), (), kwargs=varying, opset_version=23, dynamo=True, verbose=False)
    assert program is not None
    program.save(str(path))


def contains(value: Any) -> bool:
    return any(isinstance(leaf, torch.Tensor) for leaf in torch.utils._pytree.tree_leaves(value))


def session(path: Path) -> Any:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def plain_feed(made: Any, recorded: Recorded) -> dict[str, np.ndarray]:
    """Inputs of a plain export for the first case."""
    from edgegen.capture.specialize import leaf_names

    leaves = {
        name: leaf.numpy() for name, leaf in leaf_names(recorded.source.inputs(0)) if isinstance(leaf, torch.Tensor)
    }
    given = {}
    for wanted in made.get_inputs():
        given[wanted.name] = leaves[alike(wanted.name, leaves)]
    return given


def alike(wanted: str, names: Any) -> str:
    """The input that an exporter renamed: the same, or the longest that one ends with."""
    close = [n for n in names if wanted.endswith(n) or n.endswith(wanted)]
    return wanted if wanted in names else max(close, key=len)


def timed(runs: list[Any]) -> list[float]:
    """The smallest milliseconds of each function, run in turn."""
    best = [float("inf")] * len(runs)
    for _ in range(ROUNDS):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            best[i] = min(best[i], 1000 * (time.perf_counter() - start))
    return best


def row_of(name: str, with_coreml: bool, folder: Path) -> dict[str, Any]:
    """One family's row."""
    heads, size, layers = SIZES[name]
    recorded = record(source(*FAMILIES[name](heads=heads, size=size, layers=layers), GRID, GRID, TOKENS))
    case = recorded.cases[0]
    (output,) = recorded.traced.outputs
    row: dict[str, Any] = {
        "family": name, "heads": heads, "head_size": size, "layers": layers, "grid": GRID, "tokens": TOKENS,
        "parameters": sum(p.numel() for p in recorded.source.module.parameters()),
    }  # fmt: skip
    ours = folder / "ours.onnx"
    emit_onnx.write(deploy(recorded.traced, Form("batched", operations="fused")), ours)
    made = session(ours)
    runs = [lambda: made.run(None, dict(case.feed))]
    row |= {
        "db": psnr(case.expected[output.name], runs[0]()[0]),
        "nodes": len(onnx.load(ours, load_external_data=False).graph.node),
    }
    try:
        plain = folder / "plain.onnx"
        plain_onnx(recorded, plain)
        other = session(plain)
        feed = plain_feed(other, recorded)
        reached = psnr(case.expected[output.name], other.run(None, feed)[0])
        row |= {"plain_db": reached,
                "plain_nodes": len(onnx.load(plain, load_external_data=False).graph.node)}  # fmt: skip
        runs.append(lambda: other.run(None, feed))
    except Exception as error:  # whatever stops a plain export
        row["plain_error"] = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    best = timed(runs)
    row["ms"] = round(best[0], 2)
    if len(best) > 1:
        row |= {"plain_ms": round(best[1], 2), "speedup": round(best[1] / best[0], 3)}
    return row | (coreml_of(recorded, folder) if with_coreml else {})


def coreml_of(recorded: Recorded, folder: Path) -> dict[str, Any]:
    """Core ML programs, ours and a plain conversion of the same recording."""
    import coremltools as ct

    case, (output,) = recorded.cases[0], recorded.traced.outputs
    path = folder / "ours.mlpackage"
    component = deploy(recorded.traced, Form("split"))
    coreml.write(component, path)
    found = judged(
        path,
        {s.name: case.feed[s.name].astype(np.float16) for s in component.inputs},
        case.expected[output.name],
        "coreml",
    )
    try:
        program = folder / "plain.mlpackage"
        varying = {
            k: v for k, v in recorded.source.arguments.items() if k not in recorded.source.constant and contains(v)
        }
        with quiet(), torch.no_grad():
            exported = torch.export.export(Called(recorded), (), varying, strict=False).run_decompositions({})
            ct.convert(exported, minimum_deployment_target=ct.target.iOS17, compute_precision=ct.precision.FLOAT16,
                       skip_model_load=True).save(str(program))  # fmt: skip
        loaded = CoreMLProgram.load(program)
        from edgegen.capture.specialize import leaf_names

        leaves = {n: v.numpy() for n, v in leaf_names(recorded.source.inputs(0)) if isinstance(v, torch.Tensor)}
        feed = {i.name: leaves[alike(i.name, leaves)].astype(i.dtype) for i in loaded.inputs}
        found |= judged(program, feed, case.expected[output.name], "plain_coreml")
    except Exception as error:  # whatever stops a plain conversion
        found["plain_coreml_error"] = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    return found


def judged(path: Path, feed: dict[str, np.ndarray], expected: np.ndarray, label: str) -> dict[str, Any]:
    program = CoreMLProgram.load(path)
    counts: Counter[str] = program.operation_counts()
    made = next(iter(program.run(feed, fp16=True).values()))
    return {
        f"{label}_db": psnr(expected, np.asarray(made, np.float32).reshape(expected.shape)),
        f"{label}_operations": sum(counts.values()),
        f"{label}_transposes": counts["transpose"],
        f"{label}_reshapes": counts["reshape"],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("families", nargs="*", default=list(SIZES))
    parser.add_argument("--coreml", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("measurements.jsonl"))
    asked = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    import diffusers

    for name in asked.families:
        with tempfile.TemporaryDirectory() as folder:
            row = row_of(name, asked.coreml, Path(folder))
        row |= {"commit": commit, "machine": platform.machine(), "threads": 1, "torch": torch.__version__,
                "diffusers": diffusers.__version__, "source": "measured"}  # fmt: skip
        line = json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()})
        print(line, flush=True)
        with asked.out.open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
