"""Core AI by Apple's own runtime: forms of attention, agreement with Core ML, palettes beside Apple's palettizer,
whole exports at every width, and the paper's size.

usage: python benchmarks/coreai/run.py [--parts forms,agreement,sums,palettes,exports,paper] [--widths 0.375,0.5,1.0]

Needs `edgegen[coreai]`, and for palettes `pip install --no-deps coreai-opt==0.4.0`. The bundled transformer with seeded
inputs; every row goes to measurements.jsonl.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import composite
import exports
import numpy as np
import paper
import sums
import torch

from edgegen.backends.registry import find_backend
from edgegen.bench.records import append_study
from edgegen.bench.study import feed_of
from edgegen.emit import coreai, coreml
from edgegen.emit.coreai_constant import array_of
from edgegen.emit.palette_coreai import operations
from edgegen.model.checkpoint import bundled_folder, load_checkpoint
from edgegen.model.dit import DiT
from edgegen.quantize.palette import palettize, unpack
from edgegen.rewrite.build import transformer_component
from edgegen.rewrite.component import Component, Form
from edgegen.runtime.coreai import open_coreai
from edgegen.runtime.coreai_program import CoreAIProgram
from edgegen.runtime.coreml import CoreMLProgram
from edgegen.verify import psnr

HERE = Path(__file__).parent
TOKENS = 96
RUNS = 3
LEAST_WEIGHT = 1024  # numbers of a weight that Apple's palettizer leaves alone


def component_of(width: float, attention: str, grid: int = 8) -> Component:
    """The bundled transformer at a width, for a picture of so many patches a side."""
    dit = load_checkpoint(bundled_folder()).transformer(width)
    return transformer_component(dit, (dit.config.patch * grid,) * 2, TOKENS, Form(attention))


def rounded_feed(component: Component) -> dict[str, np.ndarray]:
    """Inputs that float16 holds, so that rounding them is no error."""
    return {name: value.astype(np.float16).astype(np.float32) for name, value in feed_of(component).items()}


@torch.no_grad()
def expected(component: Component, feed: dict[str, np.ndarray]) -> np.ndarray:
    """The velocity in fp32 PyTorch."""
    return component.module(*(torch.from_numpy(value) for value in feed.values())).numpy()


def run_asset(path: Path, feed: dict[str, np.ndarray], precision: str) -> tuple[np.ndarray, float, list[float]]:
    """The velocity by Apple's runtime, the seconds it took to compile and load, and milliseconds of each run."""
    start = time.perf_counter()
    run = open_coreai(path)
    load, times = time.perf_counter() - start, []
    typed = {name: value.astype(precision) for name, value in feed.items()}
    for _ in range(RUNS):
        start = time.perf_counter()
        made = run(typed)
        times.append(1e3 * (time.perf_counter() - start))
    return made["velocity"].astype(np.float32), load, times


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def forms(widths: Sequence[float], folder: Path) -> None:
    """Split, batched and composite, in both precisions: error, operations, the lint's findings, seconds."""
    for precision in ("float16", "float32"):
        for form in ("split", "batched", "composite"):
            component = component_of(widths[0], "split" if form == "split" else "batched")
            feed = rounded_feed(component)
            reference, path = expected(component, feed), folder / f"{form}-{precision}.aimodel"
            write = composite.write if form == "composite" else coreai.write
            seconds = timed(partial(write, component, path, precision=precision))
            made, load, times = run_asset(path, feed, precision)
            counts = CoreAIProgram.load(path).operation_counts()
            found = find_backend("coreai").lint(path)
            rules = {rule: sum(f.rule == rule for f in found) for rule in sorted({f.rule for f in found})}
            record(
                {"part": "forms", "form": form, "precision": precision, "width": widths[0], "tokens": 64},
                {
                    "psnr_db": round(psnr(reference, made), 1),
                    "convert_s": round(seconds, 1),
                    "load_s": round(load, 1),
                    "run_ms_min": round(min(times), 1),
                    "operations": sum(counts.values()),
                    "transposes": counts["transpose"],
                    "reshapes": counts["reshape"],
                    "invoked": counts["invoke"],
                    "findings": rules,
                },
            )


def agreement(widths: Sequence[float], folder: Path) -> None:
    """The same network as Core ML program, evaluated by us, and as Core AI asset, run by Apple; both in fp16."""
    for width in widths:
        component = component_of(width, "split")
        feed = rounded_feed(component)
        reference = expected(component, feed)
        coreml.write(component, folder / f"{width}.mlpackage")
        halves = {name: value.astype(np.float16) for name, value in feed.items()}
        ours = CoreMLProgram.load(folder / f"{width}.mlpackage").run(halves)["velocity"].astype(np.float32)
        results = {"core_ml_evaluator_db": round(psnr(reference, ours), 1)}
        for precision in ("float16", "float32"):
            path = folder / f"{width}-{precision}.aimodel"
            coreai.write(component, path, precision=precision)
            theirs, _, _ = run_asset(path, feed, precision)
            results[f"core_ai_{precision}_db"] = round(psnr(reference, theirs), 1)
            results[f"between_{precision}_db"] = round(psnr(ours, theirs), 1)
        record({"part": "agreement", "width": width, "tokens": 64}, results)


def accumulation(widths: Sequence[float], folder: Path) -> None:
    """In what the products of a float16 program add up; the same at all widths."""
    record({"part": "sums", "terms": sums.TERMS, "precision": "float16"}, sums.sums(folder))


def palettes(widths: Sequence[float], folder: Path) -> None:
    """Both palettizers at 4 bits a weight, one table a tensor, on the program of the same component."""
    for width in widths:
        dit = load_checkpoint(bundled_folder()).transformer(width)
        component = component_of(width, "split")
        feed = rounded_feed(component)
        reference = expected(component, feed)
        for label, make in (("coreai-opt", apple), ("edgegen", ours)):
            path = folder / f"{label}-{width}.aimodel"
            seconds = make(component, dit, path)
            made, _, _ = run_asset(path, feed, "float16")
            record(
                {"part": "palettes", "palettizer": label, "width": width, "bits": 4},
                {
                    "seconds": round(seconds, 2),
                    "bytes": (path / "main.mlirb").stat().st_size,
                    "output_db": round(psnr(reference, made), 2),
                    "weights_mse": weight_error(component, path),
                    "palettes": CoreAIProgram.load(path).operation_counts()["lut_to_dense"],
                },
            )


def apple(component: Component, dit: DiT, path: Path) -> float:
    """The seconds of Apple's k-means in its defaults, with int8 palettes."""
    from coreai_opt.coreai_utils.common import DType
    from coreai_opt.coreai_utils.passes.weight_palettization import palettize_weights

    program = coreai.convert(component, "float16")
    made = []
    seconds = timed(lambda: made.append(palettize_weights(program, DType.INT8, 4)))
    made[0].save_asset(path)
    return seconds


def ours(component: Component, dit: DiT, path: Path) -> float:
    """The seconds of our clustering, of the weights that the program has in float16."""
    parameters = {n: p.detach().half().float() for n, p in dit.named_parameters() if p.numel() > LEAST_WEIGHT}
    named = set(names_of_weights(component))
    parameters = {name: value for name, value in parameters.items() if name in named}
    stored = {}
    seconds = timed(lambda: stored.update({n: palettize(p, 4, name=n) for n, p in parameters.items()}))
    fake = transformer_component(dit, component.inputs[0].shape[2:], TOKENS, Form("split"))
    with torch.no_grad():
        for name, parameter in fake.module.named_parameters():
            if name in stored:
                parameter.copy_(stored[name].dense().reshape(parameter.shape))
    coreai.write(fake, path, stored)
    return seconds


def names_of_weights(component: Component) -> list[str]:
    """The weights of products and convolutions: what Apple's palettizer takes."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return [f"{name}.weight" for name, module in component.module.named_modules() if isinstance(module, kinds)]


def weight_error(component: Component, path: Path) -> float:
    """Mean squared error of the parameters that an asset has as palettes, each beside the nearest of its shape."""
    from coreai.authoring import AIModelAsset

    program = AIModelAsset.load(path).program  # its operations live as long as it does
    parameters = [p.detach().numpy() for p in component.module.parameters() if p.numel() > LEAST_WEIGHT]
    errors, count = 0.0, 0
    for operation in operations(program._module._mlir_module):
        if operation.operation.name == "coreai.lut_to_dense" and scale_of(operation) is not None:
            dense = unfolded(operation)
            alike = [np.square(p.astype(np.float64) - dense).sum() for p in parameters if p.shape == dense.shape]
            if alike:
                errors, count = errors + min(alike), count + dense.size
    return errors / count


def scale_of(operation: Any) -> Any:
    """The scale of a palette, by what takes it; None for a constant of few values, which has none."""
    user = next(iter(operation.results[0].uses)).owner
    if user.operation.name == "coreai.cast":  # Apple's palettizer has one between table and scale
        user = next(iter(user.results[0].uses)).owner
    return user.operands[1].owner if user.operation.name == "coreai.blockwise_shift_scale" else None


def unfolded(operation: Any) -> np.ndarray:
    """What a palette stands for: its table, times its scale, by its indices."""
    indices, table = (operand.owner for operand in list(operation.operands)[:2])
    shape = tuple(operation.results[0].type.shape)
    packed = torch.from_numpy(array_of(indices))
    values = array_of(table).astype(np.float64).reshape(-1) * float(array_of(scale_of(operation)).reshape(-1)[0])
    return values[unpack(packed, 4, math.prod(shape)).numpy()].reshape(shape)


def record(settings: dict, results: dict) -> None:
    append_study(HERE / "measurements.jsonl", settings, results)
    print(settings, results, flush=True)


def whole_exports(widths: Sequence[float], folder: Path) -> None:
    for row in exports.rows(widths, folder):
        record(*row)


def paper_size(widths: Sequence[float], folder: Path) -> None:
    for precision in ("float16", "float32"):
        paper.paper(precision, folder, record)


PARTS = {
    "forms": forms,
    "agreement": agreement,
    "sums": accumulation,
    "palettes": palettes,
    "exports": whole_exports,
    "paper": paper_size,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--widths", default="0.375,0.5,1.0")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    widths = [float(width) for width in arguments.widths.split(",")]
    for part in arguments.parts.split(","):
        with tempfile.TemporaryDirectory() as folder:
            PARTS[part](widths, Path(folder))


if __name__ == "__main__":
    main()
