"""Every way to quantize the bundled transformer, side by side: what it weighs and what it costs, in one run.

    python benchmarks/palettization/table.py --data data [--width 0.5] [--tune-steps 1000] [--count 200]

Rows: fp16; 8-bit palettes; 4-bit palettes in every layer, clustered by edgegen, by coremltools (palettize_weights, its
k-means) and by coreai-opt (its k-means; left out with a note where it is not installed); int4 rounded to nearest in
groups of 32; edgegen at 4.3 bits on average before and after tuning. All from one set of weights, drawn with one noise
and measured by edgegen.evaluate. Sizes are counted: `file` is Core ML's weights (indices, tables, the rest in fp16),
`resident` what ONNX Runtime holds (int8 in blocks of 32 with a scale each, the rest in fp32). One thread. Appends a row
a method to table.jsonl and prints the table. `--data` is a folder of `edgegen train fetch`.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import math
import sys
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from clustering import package

from edgegen.bench.records import append_study
from edgegen.evaluate.evaluation import Settings, evaluate_transformers
from edgegen.evaluate.judge import Judge, check_enough
from edgegen.evaluate.prompts import prompt_set
from edgegen.model.checkpoint import Checkpoint, bundled_folder, load_checkpoint
from edgegen.model.dit import DiT
from edgegen.quantize.allocate import allocate
from edgegen.quantize.calibration import calibrate, default_prompts, spread
from edgegen.quantize.integers import IntegerWeight
from edgegen.quantize.layers import quantizable
from edgegen.quantize.methods import integer_plan, quantize_weights
from edgegen.quantize.palette import palette_bytes
from edgegen.quantize.plan import VELOCITY_ROWS
from edgegen.quantize.sensitivity import MEASURES, Sensitivity, measure, velocity_errors
from edgegen.quantize.trajectories import (
    draw_points,
    encode_prompts,
    mixed_seed,
    sampling_of,
    velocity_error,
    velocity_psnr,
)
from edgegen.quantize.tune import Tuning, tune_

BLOCK = 32


@dataclass
class Method:
    """One row: the model and the bytes of its quantized weights."""

    model: DiT
    bits: float  # average over the quantized weights, palettes and scales counted
    file: int
    resident: int
    seconds: float  # to quantize, and to tune
    notes: dict[str, Any] = field(default_factory=dict)


def with_weights(model: DiT, weights: Mapping[str, Tensor]) -> DiT:
    """A copy of a model with other values in some weights."""
    copy = deepcopy(model)
    with torch.no_grad():
        for name, value in weights.items():
            copy.get_parameter(name).copy_(value.reshape(copy.get_parameter(name).shape))
    return copy


def sized(model: DiT, packed: Mapping[str, int], resident: Mapping[str, int], seconds: float) -> Method:
    """A row from the bytes of each quantized weight in a file and in memory."""
    counts = {name: p.numel() for name, p in model.named_parameters()}
    rest = sum(count for name, count in counts.items() if name not in packed)
    elements = sum(counts[name] for name in packed)
    bits = 8 * sum(packed.values()) / elements if elements else 16.0
    return Method(model, round(bits, 4), sum(packed.values()) + 2 * rest, sum(resident.values()) + 4 * rest, seconds)


def blocks_of(weight: Tensor, bits: int = 8) -> int:
    """Bytes of a weight as ONNX Runtime holds it: blocks of 32 inputs with a scale; convolutions without blocks."""
    if weight.ndim != 2:
        return weight.numel() + 4
    return weight.shape[0] * -(-weight.shape[1] // BLOCK) * (BLOCK * bits // 8 + 4)


def palettized(teacher: DiT, plan: Mapping[str, int]) -> Method:
    """edgegen's palettes after a bit plan."""
    start, weights = time.perf_counter(), quantizable(teacher)
    stored = quantize_weights(weights, plan, "palette")
    seconds = time.perf_counter() - start
    return sized(
        with_weights(teacher, {n: w.dense() for n, w in stored.items()}),
        {n: w.nbytes for n, w in stored.items()},
        {n: blocks_of(weights[n]) for n in stored},
        seconds,
    )


def rounded(teacher: DiT) -> Method:
    """int4 to nearest in groups of 32 inputs, int8 where groups do not divide."""
    start, weights = time.perf_counter(), quantizable(teacher)
    stored = quantize_weights(weights, integer_plan(weights, "int4-group"), "int4-group")
    seconds = time.perf_counter() - start
    resident = {n: blocks_of(weights[n], w.bits if isinstance(w, IntegerWeight) else 8) for n, w in stored.items()}
    made = sized(
        with_weights(teacher, {n: w.dense() for n, w in stored.items()}),
        {n: w.nbytes for n, w in stored.items()},
        resident,
        seconds,
    )
    made.notes["layers_in_int8"] = sum(w.bits == 8 for w in stored.values())
    return made


def others(teacher: DiT, dense: Mapping[str, Tensor], seconds: float) -> Method:
    """A row of 4-bit palettes clustered elsewhere; its tables are float16."""
    weights = quantizable(teacher)
    return sized(
        with_weights(teacher, dense),
        {n: palette_bytes(w.numel(), 4, int8=False) for n, w in weights.items()},
        {n: blocks_of(w) for n, w in weights.items()},
        seconds,
    )


def coremltools_palettes(teacher: DiT) -> Method:
    """4 bits by coremltools.optimize.coreml.palettize_weights."""
    import coremltools.optimize as cto
    from coremltools.optimize.coreml import _quantization_passes as passes

    weights = {n: w.half().numpy() for n, w in quantizable(teacher).items()}
    named = {(w.size, w.tobytes()[:256]): n for n, w in weights.items()}
    original, dense = passes._get_kmeans_lookup_table_and_weight, {}

    def kept(nbits: int, weight: np.ndarray, **settings: Any):
        table, indices = original(nbits, weight, **settings)
        dense[named[weight.size, weight.tobytes()[:256]]] = torch.from_numpy(
            table.astype(np.float16).astype(np.float32)[indices.ravel()]
        )
        return table, indices

    config = cto.coreml.OpPalettizerConfig(mode="kmeans", nbits=4, weight_threshold=0)
    made = package(weights)
    passes._get_kmeans_lookup_table_and_weight = kept
    try:
        start = time.perf_counter()
        cto.coreml.palettize_weights(made, cto.coreml.OptimizationConfig(global_config=config))
    finally:
        passes._get_kmeans_lookup_table_and_weight = original
    assert dense.keys() == weights.keys()
    return others(teacher, dense, time.perf_counter() - start)


class Layers(nn.Module):
    """Every weight as a linear layer of its own, for a library that palettizes modules."""

    def __init__(self, weights: Mapping[str, Tensor]):
        super().__init__()
        self.layers = nn.ModuleList()
        for weight in weights.values():
            layer = nn.Linear(weight[0].numel(), weight.shape[0], bias=False)
            layer.weight = nn.Parameter(weight.reshape(weight.shape[0], -1).clone())
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        return sum(layer(x.expand(1, layer.in_features)).sum() for layer in self.layers)


def coreai_palettes(teacher: DiT) -> Method | None:
    """4 bits by coreai-opt's KMeansPalettizer with its defaults; None where it is not installed."""
    try:
        from coreai_opt.palettization import KMeansPalettizer, KMeansPalettizerConfig
    except ImportError as error:
        print(f"coreai-opt is left out: {error}", file=sys.stderr)
        return None
    weights = quantizable(teacher)
    start = time.perf_counter()
    model = KMeansPalettizer(Layers(weights).eval(), KMeansPalettizerConfig()).prepare((torch.ones(1, 1),))
    with torch.no_grad():
        dense = {name: layer.weight.detach() for name, layer in zip(weights, model.layers, strict=True)}
    assert all(value.unique().numel() <= 16 for value in dense.values())
    return others(teacher, dense, time.perf_counter() - start)


def sensitivities(checkpoint: Checkpoint, teacher: DiT, by: str) -> list[Sensitivity]:
    """Measured layers for a plan of 4 and 8 bits."""
    batches = calibrate(checkpoint, teacher, default_prompts(checkpoint))
    layers = measure(teacher, batches)
    if by != "velocity":
        return layers
    found = velocity_errors(teacher, spread(batches, VELOCITY_ROWS))
    return [Sensitivity(**(vars(layer) | {"velocity": found[layer.name]})) for layer in layers]


def tuned(checkpoint: Checkpoint, teacher: DiT, before: Method, steps: int, batch: int) -> Method:
    """A row whose biases, norms and modulation were tuned."""
    start, model = time.perf_counter(), deepcopy(before.model)
    conditions, frozen = encode_prompts(checkpoint, default_prompts(checkpoint)), quantizable(teacher)

    def tell(done: int, of: int) -> None:
        if done % 100 == 0:
            print(f"tuning {done}/{of}", flush=True)

    result = tune_(
        model, teacher, frozen, conditions, sampling_of(checkpoint), Tuning(steps=steps, batch=batch), advance=tell
    )
    model.load_state_dict(
        {
            name: value if name in frozen else value.half().float()  # as it would be stored
            for name, value in model.state_dict().items()
        }
    )
    notes = {"error_before": result.error_before, "error_after": result.error_after, "steps": steps, "batch": batch}
    return Method(model, before.bits, before.file, before.resident, time.perf_counter() - start, notes)


def methods(checkpoint: Checkpoint, width: float, bits: float, by: str, steps: int, batch: int) -> dict[str, Method]:
    """All rows, the unquantized model first."""
    teacher = checkpoint.transformer(width)
    weights = quantizable(teacher)
    found: dict[str, Method | None] = {"fp16": sized(teacher, {}, {}, 0.0)}
    for number in (8, 4):
        found[f"palettes, {number} bits everywhere"] = palettized(teacher, dict.fromkeys(weights, number))
    print("coremltools", flush=True)
    found["coremltools, k-means, 4 bits"] = coremltools_palettes(teacher)
    print("coreai-opt", flush=True)
    found["coreai-opt, k-means, 4 bits"] = coreai_palettes(teacher)
    found["int4 to nearest, groups of 32"] = rounded(teacher)
    print("sensitivity", flush=True)
    plan = allocate(sensitivities(checkpoint, teacher, by), bits, by)
    before = palettized(teacher, plan.bits)
    found[f"edgegen, {bits:g} bits"] = before
    found[f"edgegen, {bits:g} bits, tuned"] = tuned(checkpoint, teacher, before, steps, batch)
    return {name: method for name, method in found.items() if method is not None}


def trajectory_psnr(checkpoint: Checkpoint, models: Mapping[str, DiT]) -> dict[str, float]:
    """PSNR of each model's velocity against the first one's, on points of its trajectories that tuning did not see."""
    conditions = encode_prompts(checkpoint, default_prompts(checkpoint))
    points = draw_points(next(iter(models.values())), conditions, sampling_of(checkpoint), 128, mixed_seed("table"))
    return {
        name: round(min(200.0, velocity_psnr(velocity_error(model, points, conditions), points)), 2)
        for name, model in models.items()
    }


def number(value: Any) -> str:
    """A cell: numbers short, the first number of what holds several."""
    if isinstance(value, Mapping):
        value = next((v for v in value.values() if isinstance(v, int | float)), None)
    return "" if value is None else f"{value:.4g}" if isinstance(value, int | float) else str(value)


def show(rows: list[dict[str, Any]]) -> None:
    """The table in Markdown; loss also as a share of the unquantized one's."""
    columns = (
        "method",
        "bits",
        "file",
        "resident",
        "trajectory_psnr_db",
        "velocity_psnr_db",
        "validation_loss",
        "loss_change",
        "frechet",
        "retrieval",
    )
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        cells = {
            **row,
            "file": f"{row['file'] / 1e6:.2f} MB",
            "resident": f"{row['resident'] / 1e6:.2f} MB",
            "loss_change": f"{100 * row['loss_change']:+.2f} %" if row["loss_change"] is not None else "",
        }
        print("| " + " | ".join(number(cells.get(column)) for column in columns) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--bits", type=float, default=4.3)
    parser.add_argument("--measure", choices=MEASURES, default="velocity")
    parser.add_argument("--tune-steps", type=int, default=1000)
    parser.add_argument("--tune-batch", type=int, default=16)
    parser.add_argument("--prompts", default="seen")
    parser.add_argument("--count", type=int, default=200, help="pictures a row; 0: velocities alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(arguments.checkpoint or bundled_folder())
    settings = Settings(data=arguments.data, prompts=arguments.prompts, count=arguments.count)
    if arguments.count:
        chosen = prompt_set(settings.prompts, settings.count, settings.data)
        check_enough(chosen)  # before the long part, as what is missing from the data
        Judge.open(chosen, settings.data, Told())
    start = time.perf_counter()
    found = methods(
        checkpoint, arguments.width, arguments.bits, arguments.measure, arguments.tune_steps, arguments.tune_batch
    )
    models = {name: method.model for name, method in found.items()}
    scores: list[dict[str, Any]] = [{} for _ in models]
    if arguments.count:
        scores = evaluate_transformers(checkpoint, models, settings, Told())
    near = trajectory_psnr(checkpoint, models)
    rows, first = [], scores[0].get("validation_loss")
    for (name, method), score in zip(found.items(), scores, strict=True):
        loss = score.get("validation_loss")
        change = None if not first or loss is None else loss / first - 1
        rows.append(
            {
                "method": name,
                "bits": method.bits,
                "file": method.file,
                "resident": method.resident,
                "seconds": round(method.seconds, 2),
                "loss_change": change,
                "trajectory_psnr_db": near[name],
                **method.notes,
                **score,
            }
        )
    options = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(arguments).items()
        if key not in ("data", "checkpoint")
    } | {"sha256": checkpoint.origin.get("sha256")}
    for row in rows:
        kept = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
        }
        append_study(Path(__file__).with_name("table.jsonl"), options, kept)
    show(rows)
    print(f"{time.perf_counter() - start:.0f} s")


class Told:
    """Progress as lines."""

    def __call__(self, line: str) -> None:
        print(line, flush=True)

    def advance(self, done: int, of: int) -> None: ...


if __name__ == "__main__":
    main()
