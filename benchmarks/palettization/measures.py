"""Which measure of a layer's error makes the best bit plan of the bundled model, and what it takes to measure.

usage: python benchmarks/palettization/measures.py [--bits 4.3] [--width 1.0]

Plans by every measure, before tuning; the squared error of the velocity on points that no plan has seen, and processor
seconds of the measurement alone. Measuring by velocity takes minutes; a row goes to measures.jsonl.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgegen.bench.records import append_study
from edgegen.model.checkpoint import bundled_folder, load_checkpoint
from edgegen.quantize.allocate import allocate
from edgegen.quantize.calibration import Batch, calibrate, default_prompts, spread
from edgegen.quantize.gradients import Found, gradient_errors
from edgegen.quantize.palette import palettize
from edgegen.quantize.plan import VELOCITY_ROWS
from edgegen.quantize.sensitivity import Sensitivity, measure, velocity_error, velocity_errors

ROWS = Path(__file__).parent / "measures.jsonl"
POINTS = (4, 8, 16, 32)  # of the measure by gradients
UNSEEN = 16


def one_by_one(batch: Batch) -> list[tuple]:
    """Every row of a batch as arguments of its own."""
    return [tuple(part[i : i + 1] for part in batch.inputs) for i in range(batch.t.numel())]


def timed(work: Callable[[], Found]) -> tuple[Found, float]:
    """What a measurement finds, and its processor seconds."""
    start = time.process_time()
    return work(), round(time.process_time() - start, 2)


def ranks(values: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(values))


def correlation(one: Found, other: Found, bits: int) -> float:
    """Of the ranks of layers."""
    return float(np.corrcoef(*(ranks([by[bits] for by in found.values()]) for found in (one, other)))[0, 1])


def run(bits: float, width: float) -> dict:
    """The error and the time of every measure's plan."""
    checkpoint = load_checkpoint(bundled_folder())
    model = checkpoint.transformer(width)
    batches = calibrate(checkpoint, model, default_prompts(checkpoint)[:16])
    (unseen,) = spread(batches, UNSEEN, seed=7)
    layers, seconds = timed(lambda: measure(model, batches))  # type: ignore[arg-type,return-value]
    exact, exact_seconds = timed(lambda: velocity_errors(model, spread(batches, VELOCITY_ROWS)))
    found = {"velocity": (exact, exact_seconds)}
    for count in POINTS:
        points = one_by_one(spread(batches, count)[0])
        found[f"gradient, {count} points"] = timed(lambda points=points: gradient_errors(model, points))

    def cost(measured: list[Sensitivity], by: str) -> float:
        plan = allocate(measured, bits, by).bits
        weights = {n: palettize(model.get_parameter(n), b, name=n).dense() for n, b in plan.items()}
        return round(velocity_error(model, [unseen], weights), 5)

    rows = {by: {"seconds": seconds, "velocity_error": cost(layers, by)} for by in ("output", "relative")}  # type: ignore
    for name, (errors, took) in found.items():
        measured = [replace(layer, velocity=errors[layer.name]) for layer in layers]  # type: ignore[attr-defined]
        rows[name] = {"seconds": took, "velocity_error": cost(measured, "velocity")}
        rows[name] |= {"rank_correlation": round(correlation(exact, errors, 4), 3)}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=float, default=4.3)
    parser.add_argument("--width", type=float, default=1.0)
    settings = vars(parser.parse_args())
    print(json.dumps(append_study(ROWS, settings, run(**settings))["results"], indent=2))


if __name__ == "__main__":
    main()
