"""Networks at their published size with random weights, from a folder of diffusers on disk to verified artifacts:
seconds, memory, PSNR.

    python benchmarks/foreign_networks/published.py pixart-sigma --backend coreml     # 0.6B at 1024x1024, one program
    python benchmarks/foreign_networks/published.py pixart-sigma --backend onnx
    python benchmarks/foreign_networks/published.py klein --bits 4 --chunks 4 --size 512   # 3.9B in bf16 shards

The folder holds what diffusers would have saved of the transformer; the script writes it (2.4 GB, 7.8 GB) and removes
it again unless --keep. The export is the command that a user types, in a process of its own. One row of JSON goes to
measurements.jsonl. Text encoders are not in the folder: T5-XXL has 4.8B parameters and Qwen3 4B, beyond these tiers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from edgegen.bench.records import append, environment
from edgegen.foreign.mapped import EmptyWeights
from edgegen.foreign.quantize import WEIGHTS, shard_name, shards_of

SHARD = 2 * 10**9  # bytes


@dataclass(frozen=True)
class Published:
    """A transformer of diffusers as it was published: class, config, type of its weights, text tokens."""

    kind: str
    config: dict[str, Any]
    dtype: torch.dtype
    tokens: int


MODELS = {
    "pixart-sigma": Published(
        "PixArtTransformer2DModel",
        dict(num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8, num_layers=28,
             cross_attention_dim=1152, sample_size=128, caption_channels=4096, interpolation_scale=2,
             use_additional_conditions=False),
        torch.float32,
        300,
    ),
    "klein": Published(
        "Flux2Transformer2DModel",
        dict(patch_size=1, in_channels=128, num_layers=5, num_single_layers=20, attention_head_dim=128,
             num_attention_heads=24, joint_attention_dim=7680, timestep_guidance_channels=256, mlp_ratio=3.0,
             axes_dims_rope=(32, 32, 32, 32), rope_theta=2000, guidance_embeds=False),
        torch.bfloat16,
        512,
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument("--backend", default="coreml", help="one back end, or several with commas")
    parser.add_argument("--size", type=int, default=1024, help="pixels a side")
    parser.add_argument("--tier", default="high-phone")
    parser.add_argument("--bits", type=float)
    parser.add_argument("--chunks", type=int)
    parser.add_argument("--layers", default="", help="fewer blocks than published: N, or N,M for klein's two kinds")
    parser.add_argument("--work", type=Path, help="a folder for weights and bundle; default: a temporary one")
    parser.add_argument("--keep", action="store_true", help="leave weights and bundle there")
    parser.add_argument("--label", default="", help="said in the row, such as 'idle machine'")
    asked = parser.parse_args()
    work = asked.work or Path(tempfile.mkdtemp(prefix="published-"))
    try:
        row = measured(MODELS[asked.model], asked, work)
    finally:
        if not asked.keep:
            shutil.rmtree(work, ignore_errors=True)
    print(json.dumps(append(Path(__file__).with_name("measurements.jsonl"), row | environment())))


def measured(model: Published, asked: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The row of one export."""
    config = with_layers(model.config, asked.layers)
    folder, out, start = work / "weights", work / "bundle", time.perf_counter()
    if not (folder / "config.json").is_file():
        write_folder(model, config, folder)
    wrote = time.perf_counter() - start
    command = ["export", "--checkpoint", folder, "--tier", asked.tier, "--backend", asked.backend, "--json"]
    command += ["--resolution", f"{asked.size}x{asked.size}", "--tokens", model.tokens, "--out", out, "--overwrite"]
    command += ["--bits", asked.bits] if asked.bits else []
    command += ["--chunks", asked.chunks] if asked.chunks else []
    start = time.perf_counter()
    run = subprocess.run([sys.executable, "-m", "edgegen", *map(str, command)], stdout=subprocess.PIPE, text=True)
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    if run.returncode:
        raise SystemExit(f"the export ended with {run.returncode}.")
    made = json.loads(run.stdout)
    return {
        "study": "published", "model": asked.model, "config": config, "pixels": asked.size, "tokens": model.tokens,
        "weights": f"random, {str(model.dtype).removeprefix('torch.')}", "backend": asked.backend, "bits": asked.bits,
        "chunks": asked.chunks, "parameters": made["networks"]["network"]["parameters"], "seconds": round(seconds, 1),
        "peak_bytes": peak, "seconds_to_write_weights": round(wrote, 1), "stages": made["stages"],
        "components": made["components"], "verify": made["verify"],
        "palettes_db": made["networks"]["network"].get("palettes", {}).get("psnr_db"),
        "threads": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())), "label": asked.label, "source": "measured",
    }  # fmt: skip


def with_layers(config: dict[str, Any], layers: str) -> dict[str, Any]:
    """A config with fewer blocks."""
    counts = [int(n) for n in layers.split(",") if n]
    return config | dict(zip(("num_layers", "num_single_layers"), counts, strict=False))


def write_folder(model: Published, config: dict[str, Any], folder: Path) -> None:
    """A component's folder as diffusers saves it, shard by shard, with random numbers in every layer."""
    import diffusers

    with EmptyWeights():
        module = getattr(diffusers, model.kind)(**config)
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    state = module.state_dict()
    groups = shards_of({name: tensor.numel() * model.dtype.itemsize for name, tensor in state.items()}, SHARD)
    names = [shard_name(number, len(groups)) for number in range(1, len(groups) + 1)]
    for name, group in zip(names, groups, strict=True):
        save_file({key: numbers(key, state[key], generator).to(model.dtype) for key in group}, folder / name)
    index = {key: name for name, group in zip(names, groups, strict=True) for key in group}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    module.save_config(folder)


def numbers(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers for a parameter, so that values keep their size from layer to layer; a buffer as it is."""
    if not like.is_meta and "pos_embed" in name:
        return like
    noise = torch.randn(like.shape, generator=generator)
    if like.ndim > 1:
        return noise * like[0].numel() ** -0.5
    return noise * 0.2 + (1.0 if name.endswith("weight") else 0.0)


if __name__ == "__main__":
    main()
