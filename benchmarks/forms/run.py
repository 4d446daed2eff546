"""Batched against split form of the bundled transformer, on the two CPU runtimes, interleaved in one run.

usage: python benchmarks/forms/run.py [--widths 0.375,0.5,1.0] [--backends onnx,executorch] [--grids 8,32] [--runs 30]

A grid of 8 is 64 tokens, the bundled model's 128x128 pixels; 32 is 1,024 tokens, 512x512 pixels.

Lowers the transformer in both forms, checks both against PyTorch, then times single-thread inferences in turn
(split, batched, split, ...) and appends the medians and their ratio to measurements.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from edgegen.bench.records import append_study
from edgegen.emit import executorch, onnx
from edgegen.model.checkpoint import bundled_folder, load_checkpoint
from edgegen.rewrite.build import transformer_component
from edgegen.rewrite.component import Component, Form
from edgegen.runtime.onnx import import_onnxruntime

SPLIT = Form("split")
BATCHED = {"onnx": Form("batched", operations="fused"), "executorch": Form("batched")}
TOKENS = 96


def open_onnx(path: Path, feed: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
    """One inference in ONNX Runtime, one thread."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options)
    return lambda: session.run(None, feed)[0]


def open_executorch(path: Path, feed: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
    """One inference in ExecuTorch; XNNPACK takes as many threads as the process may use."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(str(path)).load_method("forward")
    inputs = [torch.from_numpy(x) for x in feed.values()]
    return lambda: method.execute(inputs)[0].numpy()


WRITE = {"onnx": onnx.write, "executorch": executorch.write}
OPEN = {"onnx": open_onnx, "executorch": open_executorch}


def example(component: Component) -> dict[str, np.ndarray]:
    """Seeded random inputs; every text token is real."""
    rng = np.random.default_rng(0)
    feed = {s.name: rng.standard_normal(s.shape, dtype=np.float32) for s in component.inputs}
    return feed | {"text_mask": np.ones_like(feed["text_mask"])}


def prepare(backend: str, component: Component, folder: Path) -> tuple[Callable[[], np.ndarray], float, float]:
    """The runner of a lowered component, the seconds lowering took, and its PSNR in dB against PyTorch."""
    path, feed, start = folder / f"{component.form}.{backend}", example(component), time.perf_counter()
    WRITE[backend](component, path)
    seconds = time.perf_counter() - start
    run = OPEN[backend](path, feed)
    with torch.no_grad():
        reference = component.module(*(torch.from_numpy(x) for x in feed.values())).numpy()
    error = np.square(reference.astype(np.float64) - run()).mean()
    return run, seconds, float(10 * np.log10(np.ptp(reference) ** 2 / error))


def compare(backend: str, width: float, grid: int, runs: int) -> dict:
    """Median milliseconds of both forms and the ratio, from interleaved runs."""
    dit = load_checkpoint(bundled_folder()).transformer(width)
    size = (dit.config.patch * grid, dit.config.patch * grid)
    with tempfile.TemporaryDirectory() as folder:
        prepared = {
            name: prepare(backend, transformer_component(dit, size, TOKENS, form), Path(folder))
            for name, form in (("split", SPLIT), ("batched", BATCHED[backend]))
        }
        times: dict[str, list[float]] = {name: [] for name in prepared}
        for _ in range(runs):
            for name, (run, _, _) in prepared.items():
                start = time.perf_counter()
                run()
                times[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: round(statistics.median(t), 3) for name, t in times.items()}
    pairs = [s / b for s, b in zip(times["split"], times["batched"], strict=True)]
    return {
        "ms_p50": medians,
        "ratio_p50": round(statistics.median(pairs), 2),
        "ratio_min": round(min(pairs), 2),
        "lowering_s": {n: round(p[1], 1) for n, p in prepared.items()},
        "psnr_db": {n: round(p[2], 1) for n, p in prepared.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="0.375,0.5,1.0")
    parser.add_argument("--backends", default="onnx,executorch")
    parser.add_argument("--grids", default="8,32")
    parser.add_argument("--runs", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for backend in arguments.backends.split(","):
        for width in map(float, arguments.widths.split(",")):
            for grid in map(int, arguments.grids.split(",")):
                settings = {
                    "backend": backend,
                    "width": width,
                    "tokens": grid**2,
                    "runs": arguments.runs,
                    "text_tokens": TOKENS,
                    "threads": {"onnx": 1, "executorch": "default"}[backend],
                }
                results = compare(backend, width, grid, arguments.runs)
                append_study(Path(__file__).with_name("measurements.jsonl"), settings, results)
                print(backend, width, grid**2, results, flush=True)


if __name__ == "__main__":
    main()
