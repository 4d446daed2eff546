"""Clustering against coremltools.optimize.coreml.palettize_weights: error and time on the same tensors, in one run.

usage: python benchmarks/palettization/clustering.py [--model bundled|paper] [--widths 0.375,0.5,1.0] [--bits 4,8]
                                                     [--sample 0]

Puts the weights into an .mlpackage, palettizes it with coremltools and, for each tensor right after coremltools has
clustered it, clusters the same tensor with edgegen. `--sample N` takes N tensors of a model, one of
every shape first; 0 takes all of them. Times are of the processor, one thread
each, so that other work on the machine counts for little; wall time is recorded beside them. Appends a row a model and
number of bits to measurements.jsonl.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edgegen.bench.records import append_study
from edgegen.model.checkpoint import Checkpoint, bundled_folder, load_checkpoint
from edgegen.model.elastic import materialize_state, skeleton
from edgegen.model.random_checkpoint import random_preset
from edgegen.quantize.layers import quantizable
from edgegen.quantize.palette import palettize


@dataclass(frozen=True)
class Pair:
    """One tensor clustered twice."""

    name: str
    count: int
    error: dict[str, float]  # squared error: theirs, ours (fp16 values), ours_int8
    seconds: dict[str, float]  # of the processor; theirs: coremltools' clustering alone; ours: all of palettize
    wall: float  # seconds of ours


def weights_of(checkpoint: Checkpoint, width: float, sample: int) -> dict[str, np.ndarray]:
    """Name to fp16 weight of what is quantized at a width, all or a sample."""
    config = checkpoint.config.transformer
    names = {name: tuple(w.shape) for name, w in quantizable(skeleton(config.at(width))).items()}
    if sample:
        first = {shape: name for name, shape in reversed(names.items())}
        spread = [name for i, name in enumerate(names) if i % max(1, len(names) // sample) == 0]
        names = dict.fromkeys([*first.values(), *spread][:sample])
    if checkpoint.is_random and width == 1.0:  # each made when asked: the whole would be 6 GB
        state = checkpoint.states["transformer"]
    else:
        state = materialize_state(checkpoint.states["transformer"], config, width)
    return {name: state[name].half().numpy() for name in names}


def package(weights: dict[str, np.ndarray]):
    """A Core ML program with one 1x1 convolution a weight, all reading one input: a palette does not ask for shapes."""
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    target, channels = ct.target.iOS16, math.gcd(64, *(w.size for w in weights.values()))

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, channels, 1, 1), dtype=types.fp16)], opset_version=target)
    def program(x):
        return tuple(mb.conv(x=x, weight=w.reshape(-1, channels, 1, 1)) for w in weights.values())

    return ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=target,
        skip_model_load=True,
        compute_precision=ct.precision.FLOAT32,
    )


def squared_error(weight: np.ndarray, dense: np.ndarray) -> float:
    return float(np.square(weight.astype(np.float64).ravel() - dense.astype(np.float64).ravel()).sum())


def clocks() -> np.ndarray:
    """Seconds of this process's processor, and of the wall."""
    return np.array([time.process_time(), time.perf_counter()])


def compare(weights: dict[str, np.ndarray], bits: int) -> tuple[list[Pair], np.ndarray]:
    """Both clusterings of every weight, and the seconds (processor, wall) palettize_weights took without ours."""
    import coremltools.optimize as cto
    from coremltools.optimize.coreml import _quantization_passes as passes

    original, pairs, ours_seconds = passes._get_kmeans_lookup_table_and_weight, [], np.zeros(2)
    named = {(w.size, w.tobytes()[:256]): name for name, w in weights.items()}

    def both(nbits: int, weight: np.ndarray, **settings):
        nonlocal ours_seconds
        start = clocks()
        table, indices = original(nbits, weight, **settings)
        theirs = clocks()
        tensor = torch.from_numpy(weight)
        palette = palettize(tensor, nbits, int8=False)
        ours = clocks()
        error = {
            "theirs": squared_error(weight, table.astype(np.float16)[indices.ravel()]),
            "ours": squared_error(weight, palette.dense().numpy()),
            "ours_int8": squared_error(weight, palettize(tensor, nbits).dense().numpy()),
        }
        name = named[weight.size, weight.tobytes()[:256]]
        pairs.append(
            Pair(
                name,
                weight.size,
                error,
                {"theirs": (theirs - start)[0], "ours": (ours - theirs)[0]},
                (ours - theirs)[1],
            )
        )
        ours_seconds += clocks() - theirs
        print(
            f"  {name} {weight.size:,}: error {error['ours'] / error['theirs']:.6f}, "
            f"time {(theirs - start)[0] / (ours - theirs)[0]:.1f}x",
            file=sys.stderr,
            flush=True,
        )
        return table, indices

    model = package(weights)
    settings = cto.coreml.OpPalettizerConfig(mode="kmeans", nbits=bits, weight_threshold=0)
    passes._get_kmeans_lookup_table_and_weight = both
    try:
        start = clocks()
        cto.coreml.palettize_weights(model, cto.coreml.OptimizationConfig(global_config=settings))
        seconds = clocks() - start - ours_seconds
    finally:
        passes._get_kmeans_lookup_table_and_weight = original
    return pairs, seconds


def summary(pairs: list[Pair], seconds: np.ndarray) -> dict:
    """The figures of a row; a ratio of errors above 1 would be a defeat."""
    ratios = {p.name: p.error["ours"] / p.error["theirs"] if p.error["theirs"] else 1.0 for p in pairs}
    int8 = [10 * np.log10(p.error["ours_int8"] / p.error["ours"]) for p in pairs if p.error["ours"]]
    ours, wall = sum(p.seconds["ours"] for p in pairs), sum(p.wall for p in pairs)
    theirs = sum(p.seconds["theirs"] for p in pairs)
    worst = max(ratios, key=lambda name: ratios[name])
    return {
        "tensors": len(pairs),
        "weights": sum(p.count for p in pairs),
        "error_ratio": {
            "median": statistics.median(ratios.values()),
            "least": min(ratios.values()),
            "worst": ratios[worst],
            "worst_tensor": worst,
        },
        "int8_loss_db": {"median": round(float(np.median(int8)), 4), "worst": round(float(max(int8)), 4)},
        "cpu_seconds": {
            "palettize_weights": round(float(seconds[0]), 3),
            "their_clustering": round(theirs, 3),
            "ours": round(ours, 4),
        },
        "wall_seconds": {"palettize_weights": round(float(seconds[1]), 3), "ours": round(wall, 4)},
        "time_ratio": {
            "palettize_weights": round(float(seconds[0]) / ours, 1),
            "palettize_weights_wall": round(float(seconds[1]) / wall, 1),
            "their_clustering": round(theirs / ours, 1),
        },
    }


def runs(model: str, widths: list[float], sample: int) -> Iterator[tuple[float, dict[str, np.ndarray]]]:
    checkpoint = load_checkpoint(bundled_folder()) if model == "bundled" else random_preset(model)
    for width in widths:
        yield width, weights_of(checkpoint, width, sample)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled", help="bundled, or the name of a preset with random weights")
    parser.add_argument("--widths", default="0.375,0.5,1.0")
    parser.add_argument("--bits", default="4,8")
    parser.add_argument("--sample", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    defeats = 0
    for width, weights in runs(arguments.model, [float(w) for w in arguments.widths.split(",")], arguments.sample):
        for bits in map(int, arguments.bits.split(",")):
            results = summary(*compare(weights, bits))
            defeats += results["error_ratio"]["worst"] > 1 + 1e-9
            settings = {
                "study": "clustering",
                "model": arguments.model,
                "width": width,
                "bits": bits,
                "sample": arguments.sample,
                "threads": 1,
            }
            append_study(Path(__file__).with_name("measurements.jsonl"), settings, results)
            print(arguments.model, width, bits, results, flush=True)
    sys.exit(f"{defeats} runs with a larger error than coremltools" if defeats else 0)


if __name__ == "__main__":
    main()
