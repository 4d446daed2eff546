"""Foreign networks beside a plain torch.onnx.export and a plain coremltools conversion: speed, PSNR, operations.

    python benchmarks/foreign_networks/compare.py [FAMILY ...] [--coreml] [--published] [--grid N] [--tokens N]
        [--rounds N] [--threads N] [--optimum PYTHON] [--out F]

Each family has published head sizes, few layers and random weights; with --published its widths are published too. The
plain export is the fastest of torch.onnx.export's own ways that loads (plain.py). All files are timed in one process, a
run of each in turn, so that whatever else the machine does slows all of them; a row is a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import onnx

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "tests")]

from foreign import FAMILIES, source  # noqa: E402
from plain import OPTIMUM, WAYS, Called, first_of, real_rotations, write_coreml, write_onnx, write_optimum  # noqa: E402
from published_shapes import SHAPES  # noqa: E402

from edgegen.backends.registry import find_backend  # noqa: E402
from edgegen.bench.records import append, environment  # noqa: E402
from edgegen.capture.deploy import deploy  # noqa: E402
from edgegen.capture.specialize import leaf_names  # noqa: E402
from edgegen.emit import coreml  # noqa: E402
from edgegen.foreign import recording  # noqa: E402
from edgegen.foreign.export import Recorded, record  # noqa: E402
from edgegen.rewrite.component import Form  # noqa: E402
from edgegen.runtime.coreml import CoreMLProgram  # noqa: E402
from edgegen.runtime.onnx import import_onnxruntime  # noqa: E402
from edgegen.target import load_tier  # noqa: E402
from edgegen.verify import psnr  # noqa: E402

SIZES = {  # heads, channels a head, layers, latents a side: 1,024 image tokens each
    "pixart": (16, 72, 2, 64), "sana": (36, 32, 2, 32), "sd3": (12, 64, 2, 64), "lumina_next": (8, 96, 2, 64),
    "lumina2": (8, 96, 2, 64), "flux": (8, 128, 1, 64), "flux2": (8, 128, 1, 64), "qwen_image": (8, 128, 1, 64),
    "z_image": (8, 128, 2, 64),
}  # fmt: skip
HEATING = 2
PUBLISHED = {  # how many positions each has, which the tests' networks have fewer of
    "sd3": {"pos_embed_max_size": 192}, "lumina2": {"axes_lens": (300, 512, 512)},
    "z_image": {"axes_lens": [1536, 512, 512]},
}  # fmt: skip
NAMES = {  # of published_shapes.py
    "pixart": "PixArt-Sigma XL", "sana": "SANA 1.6B", "sd3": "SD3.5 medium", "lumina_next": "Lumina-Next",
    "lumina2": "Lumina2", "flux": "FLUX.1 dev", "flux2": "FLUX.2 klein 4B", "qwen_image": "Qwen-Image",
    "z_image": "Z-Image",
}  # fmt: skip
Runs = dict[str, Any]  # a way, and a function that runs its file


def session(path: Path, threads: int) -> Any:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def timed(runs: Runs, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every run of each file, one run of each in turn."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + HEATING):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn >= HEATING:
                found[name].append(1000 * (time.perf_counter() - start))
    return found


def first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return re.sub(r"\x1b\[\d+m|\S*/(?=\S+\.(onnx|py))", "", line)[:160]  # no colours, no folders


def plain_run(recorded: Recorded, folder: Path, threads: int, tried: dict[str, float], errors: dict[str, str]) -> Runs:
    """The fastest plain export that loads; where none does as the module is, of those with rotations in real numbers.

    Each is open alone while it is tried: at published widths one takes several GB.
    """
    called, paths = Called(recorded.source), {}
    for patched in (False, True):
        for name, settings in WAYS.items():
            label = f"{name}, rotations patched" if patched else name
            path = folder / f"{len(errors) + len(paths)}.onnx"
            try:
                with real_rotations(called) if patched else nullcontext():
                    write_onnx(called, path, settings)
                (tried[label],) = timed({label: run_of(session(path, threads), called)}, 1)[label]
                paths[label] = path
            except Exception as error:  # whatever stops a plain export
                errors[label] = first_line(error)
        if paths:
            break
    if not paths:
        return {}
    fastest = min(paths, key=tried.__getitem__)
    return {fastest: run_of(session(paths[fastest], threads), called)}


def run_of(made: Any, called: Called) -> Any:
    """Runs a plain export on the first case."""
    values = dict(leaf_names(called.arguments))
    feed = {}
    for wanted in made.get_inputs():
        value = values[wanted.name].numpy()
        feed[wanted.name] = value.astype(np.int64 if wanted.type == "tensor(int64)" else value.dtype)
    return lambda: made.run(None, feed)[0]


def optimum_run(recorded: Recorded, asked: argparse.Namespace, folder: Path, errors: dict[str, str]) -> Runs:
    """optimum-onnx's export, of the classes it knows."""
    if asked.optimum is None or type(recorded.source.module).__name__ not in OPTIMUM:
        return {}
    try:
        write_optimum(asked.optimum, recorded.source, folder / "optimum.onnx")
        run = run_of(session(folder / "optimum.onnx", asked.threads), Called(recorded.source))
        run()
    except Exception as error:  # whatever stops it
        errors["optimum-onnx"] = first_line(error)
        return {}
    return {"optimum-onnx": run}


def row_of(family: str, asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One family's row."""
    heads, size, layers, side = SIZES[family]
    side = asked.grid or side
    kind, config = FAMILIES[family](heads=heads, size=size, layers=layers)
    config |= PUBLISHED.get(family, {})
    row: dict[str, Any] = {"family": family, "heads": heads, "head_size": size, "layers": layers}
    if asked.published:
        kind, config = SHAPES[NAMES[family]]
        row = {"family": family, "published": NAMES[family]}
    recorded = record(source(kind, config, side, side, asked.tokens))
    row |= {"grid": side, "tokens": asked.tokens, "parameters": recorded.source.parameters}
    told = coreml_of(recorded, folder) if asked.coreml else {}  # first: after an ONNX export it fails
    return row | onnx_of(recorded, asked, folder) | told


def onnx_of(recorded: Recorded, asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """ONNX files, ours and every plain one: dB, nodes, milliseconds; `speedup` is beside the fastest plain one."""
    ours, errors, case = folder / "ours.onnx", {}, recorded.cases[0]
    expected = case.expected[recorded.traced.outputs[0].name]
    target = load_tier("high-phone").backend("onnx")
    form = Form(target.attention, target.query_chunk, target.operations)
    find_backend("onnx").write(deploy(recorded.traced, form), ours, target, {})
    tried: dict[str, float] = {}
    plain = plain_run(recorded, folder, asked.threads, tried, errors)
    made = session(ours, asked.threads)
    runs: Runs = {"ours": lambda: made.run(None, dict(case.feed))[0], **plain}
    runs |= optimum_run(recorded, asked, folder, errors)
    reached = {name: round(psnr(expected, run().reshape(expected.shape)), 2) for name, run in runs.items()}
    times = timed(runs, asked.rounds)
    best = {name: round(min(values), 2) for name, values in times.items()}
    row: dict[str, Any] = {"db": reached["ours"], "nodes": nodes(ours), "ms": best["ours"]}
    for name in plain:
        row |= {"plain": name, "plain_db": reached[name], "plain_ms": best[name]}
        row |= {"speedup": best[name] / best["ours"], "median_speedup": ratio(times[name], times["ours"])}
    if "optimum-onnx" in best:
        row |= {"optimum_db": reached["optimum-onnx"], "optimum_speedup": best["optimum-onnx"] / best["ours"]}
        row["optimum_median_speedup"] = ratio(times["optimum-onnx"], times["ours"])
    return row | {"tried_ms": {name: round(ms, 1) for name, ms in tried.items()}, "failed": errors}


def ratio(slow: list[float], fast: list[float]) -> float:
    """The median of the ratios of neighbouring runs."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def nodes(path: Path) -> int:
    return len(onnx.load(path, load_external_data=False).graph.node)


def coreml_of(recorded: Recorded, folder: Path) -> dict[str, Any]:
    """Core ML programs, ours and a plain conversion of the same module."""
    case, (output,) = recorded.cases[0], recorded.traced.outputs
    path, expected = folder / "ours.mlpackage", case.expected[output.name]
    component = deploy(recorded.traced, Form("split"))
    coreml.write(component, path)
    feed = {s.name: case.feed[s.name].astype(np.float16) for s in component.inputs}
    found, called = judged(path, feed, expected, "coreml"), Called(recorded.source)
    try:
        return found | plain_coreml(called, recorded, expected, folder / "plain.mlpackage")
    except Exception as error:  # whatever stops a plain conversion, or its running
        return found | {"plain_coreml_error": first_line(error)}


def plain_coreml(called: Called, recorded: Recorded, expected: np.ndarray, path: Path) -> dict[str, Any]:
    """The plain program, of the module as it is or else with rotations in real numbers."""

    def patched() -> tuple[str, ...]:
        with real_rotations(called):
            return write_coreml(called, path)

    ways = {False: lambda: write_coreml(called, path), True: patched}
    is_patched, names = first_of([lambda way=way, key=key: (key, way()) for key, way in ways.items()])
    kinds = {i.name: i.dtype for i in CoreMLProgram.load(path).inputs}
    values = called.given()
    feed = {n: v.numpy().astype(kinds[n]) for n, v in zip(names, values, strict=True) if n in kinds}
    return judged(path, feed, expected, "plain_coreml") | {"plain_coreml_patched": is_patched}


def judged(path: Path, feed: dict[str, np.ndarray], expected: np.ndarray, label: str) -> dict[str, Any]:
    """PSNR, operations and moves of a Core ML program, evaluated in fp16."""
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
    parser.add_argument("--grid", type=int, help="latents a side")
    parser.add_argument("--tokens", type=int, default=128, help="of text")
    parser.add_argument("--rounds", type=int, default=21, help="runs of each file that are timed")
    parser.add_argument("--published", action="store_true", help="at published widths, two layers deep")
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime")
    parser.add_argument("--optimum", type=Path, help="an interpreter that has optimum-onnx (optimum_export.py)")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("measurements.jsonl"))
    asked = parser.parse_args()
    recording.HEAVY, recording.CASES = 10**12, 1  # judged on the example, which the plain export is given
    for name in asked.families:
        with tempfile.TemporaryDirectory() as folder:
            row = row_of(name, asked, Path(folder))
        row = {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}
        told = {
            "source": "measured",
            "threads": asked.threads,
            **row,
            **environment(),
            "diffusers": diffusers.__version__,
        }
        print(json.dumps(append(asked.out, told | {"diffusers": diffusers.__version__})), flush=True)


if __name__ == "__main__":
    main()
