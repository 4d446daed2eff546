"""The paper's size: seconds and peak memory to palettize the 1.6B weights of the `paper` preset.

usage: python benchmarks/palettization/paper_size.py [--bits 4] [--width 1.0] [--threads 1]

Writes random weights to an fp16 .safetensors file (not timed), then a fresh process reads them tensor by tensor,
clusters and packs them, and keeps every palette. Appends a row to measurements.jsonl.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from edgegen.bench.records import append_study
from edgegen.meter import peak_bytes, reset_peak
from edgegen.model.elastic import materialize_state, skeleton
from edgegen.model.random_checkpoint import random_preset
from edgegen.quantize.layers import quantizable
from edgegen.quantize.palette import palettize

SHARD = 2**28  # weights in a file: what generation holds at once


def write_weights(folder: Path, width: float) -> None:
    """The quantizable weights of the preset in fp16, in files of about half a GB."""
    checkpoint = random_preset("paper")
    config = checkpoint.config.transformer
    source = checkpoint.states["transformer"]
    names = quantizable(skeleton(config.at(width)))
    state = source if width == 1.0 else materialize_state(source, config, width)
    shard: dict[str, torch.Tensor] = {}
    for name in names:
        shard[name] = state[name].half()
        if sum(w.numel() for w in shard.values()) > SHARD or name == list(names)[-1]:
            save_file(shard, folder / f"{len(list(folder.iterdir())):02d}.safetensors")
            shard = {}


def read_weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                yield name, file.get_tensor(name)


def measure(folder: Path, bits: int, threads: int) -> dict:
    """Clusters everything in a folder; runs in a process of its own."""
    torch.set_num_threads(threads)
    reset_peak()
    start_bytes, start, cpu = peak_bytes(), time.perf_counter(), time.process_time()
    palettes, count = {}, 0
    for name, weight in read_weights(folder):
        palettes[name] = palettize(weight, bits, name=name)
        count += weight.numel()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    size = sum(palette.nbytes for palette in palettes.values())
    return {
        "tensors": len(palettes),
        "weights": count,
        "average_bits": round(8 * size / count, 4),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_bytes": peak_bytes(),
        "process_bytes_before": start_bytes,
        "fp16_bytes": 2 * count,
        "peak_over_fp16": round(peak_bytes() / (2 * count), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.bits, arguments.threads)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_weights(Path(folder), arguments.width)
        command = [
            sys.executable,
            __file__,
            "--measure",
            folder,
            "--bits",
            str(arguments.bits),
            "--threads",
            str(arguments.threads),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    results = json.loads(done.stdout)
    settings = {"study": "paper_size", "width": arguments.width, "bits": arguments.bits, "threads": arguments.threads}
    append_study(Path(__file__).with_name("measurements.jsonl"), settings, results)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
