"""The paper's network at 1024x1024, its narrowest slice: converted by our exporter, run once by Apple's runtime."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgegen.bench.study import feed_of
from edgegen.emit import coreai
from edgegen.errors import EdgegenError
from edgegen.meter import Meter
from edgegen.model.random_checkpoint import random_preset
from edgegen.rewrite.build import transformer_component
from edgegen.rewrite.component import Component, Form
from edgegen.runtime.coreai import Guard, open_coreai
from edgegen.runtime.coreai_program import CoreAIProgram
from edgegen.verify import psnr

WIDTH, PIXELS, TOKENS, QUERIES = 0.375, 1024, 128, 512
GUARD = Guard(load_seconds=900, run_seconds=900, bytes=14 * 2**30)


def paper(precision: str, folder: Path, record: Callable[[dict, dict], None]) -> None:
    """A row of what conversion takes, and one of what became of a run; the weights are random."""
    checkpoint = random_preset("paper")
    size = checkpoint.config.latent_size((PIXELS, PIXELS))
    component = transformer_component(checkpoint.transformer(WIDTH), size, TOKENS, Form("split", QUERIES))
    path = folder / f"paper-{precision}.aimodel"
    settings = {"width": WIDTH, "pixels": PIXELS, "precision": precision, "form": "split", "query_chunk": QUERIES}
    record({"part": "paper"} | settings, converted(component, path, precision))
    feed = {name: value.astype(np.float16).astype(np.float32) for name, value in feed_of(component).items()}
    with torch.no_grad():
        expected = component.module(*(torch.from_numpy(value) for value in feed.values())).numpy()
    record({"part": "paper run"} | settings, run_once(path, feed, expected, precision))


def converted(component: Component, path: Path, precision: str) -> dict[str, Any]:
    """What writing an asset takes."""
    meter, start = Meter(), time.process_time()
    with meter.stage("convert"):
        coreai.write(component, path, precision=precision)
    return {
        "parameters": sum(parameter.numel() for parameter in component.module.parameters()),
        "convert_s": meter.stages[0].seconds,
        "convert_cpu_s": round(time.process_time() - start, 1),
        "convert_peak_bytes": meter.stages[0].peak_bytes,
        "bytes": (path / "main.mlirb").stat().st_size,
        "operations": sum(CoreAIProgram.load(path).operation_counts().values()),
    }


def run_once(path: Path, feed: dict[str, np.ndarray], expected: np.ndarray, precision: str) -> dict[str, Any]:
    """The seconds and error of one run, or what stopped it."""
    start, results = time.perf_counter(), {}
    try:
        run = open_coreai(path, GUARD)
        results["load_s"] = round(time.perf_counter() - start, 1)
        start = time.perf_counter()
        made = run({name: value.astype(precision) for name, value in feed.items()})["velocity"]
        results |= {"run_s": round(time.perf_counter() - start, 1), "psnr_db": round(psnr(expected, made), 1)}
        del run
    except EdgegenError as error:
        results["stopped"] = error.message
    return results
