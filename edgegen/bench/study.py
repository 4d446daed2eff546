"""What the studies in benchmarks/ share: lower a component once, time callables in turn, write tables and plots."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgegen.backends.registry import find_backend
from edgegen.bench.child import set_threads
from edgegen.bench.host import LocalRunner
from edgegen.bench.measure import Measurement, Settings, measure_
from edgegen.bench.records import commit
from edgegen.callbacks import ArrayFunction
from edgegen.pipeline.artifact import open_component
from edgegen.rewrite.component import Component, Form
from edgegen.target import load_tier

TIER = "low-android"  # whose targets artifacts are written for
BACKENDS = ("onnx", "executorch")
FORMS = {"onnx": Form("batched", operations="fused"), "executorch": Form("batched")}  # of targets/tiers
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
OpenRun = Callable[[], Callable[[], Any]]  # opens something and gives one run of it


def cache(study: str) -> Path:
    """Where a study keeps what it lowered, so that it can be interrupted; another commit starts anew."""
    folder = Path("out/benchmarks") / study / (commit() or "installed")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def lower(component: Component, backend: str, path: Path) -> Path:
    """The artifact of a component, written unless it is there; it appears whole."""
    if not path.exists():
        partial = path.with_name(f".{os.getpid()}-{path.name}")
        try:
            find_backend(backend).write(component, partial, load_tier(TIER).backend(backend), {})
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def feed_of(component: Component) -> dict[str, np.ndarray]:
    """Seeded random inputs; every text token is real."""
    rng = np.random.default_rng(0)
    feed = {spec.name: rng.standard_normal(spec.shape, dtype=np.float32) for spec in component.inputs}
    return feed | {name: np.ones_like(value) for name, value in feed.items() if name == "text_mask"}


def open_lowered(component: Component, backend: str, path: Path) -> ArrayFunction:
    """The function of a lowered component."""
    return open_component(backend, path, component.inputs, component.outputs)


def runner(component: Component, backend: str, path: Path) -> OpenRun:
    """What opens a lowered component and runs it on `feed_of`."""

    def make() -> Callable[[], Any]:
        run, feed = open_lowered(component, backend, path), feed_of(component)
        return lambda: run(feed)

    return make


def in_turn(
    candidates: Mapping[str, OpenRun], settings: Settings, backend: str = "onnx", clock: str = "wall"
) -> dict[str, Measurement]:
    """Measures callables of this process in turn, by their labels, on `settings.threads` threads.

    Clock `cpu` counts what the process ran, not what it waited: for one thread on a machine that has other work.
    """
    set_threads(backend, settings.threads)
    measurements = [Measurement(label) for label in candidates]
    measure_(measurements, [LocalRunner(make, CLOCKS[clock]) for make in candidates.values()], settings)
    return {measurement.label: measurement for measurement in measurements}


def timings(measurements: Mapping[str, Measurement]) -> dict[str, dict]:
    """What a study's row keeps of each candidate."""
    return {
        label: {
            "ms_p50": round(m.summary.p50, 4),
            "ms_min": round(m.summary.min, 4),
            "ms_p95": round(m.summary.p95, 4),
            "cv": round(m.summary.cv_trimmed, 4),
            "runs": m.summary.n,
            "first_ms": round(m.first_ms or 0, 3),
        }
        for label, m in measurements.items()
    }


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table as README.md holds it."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
