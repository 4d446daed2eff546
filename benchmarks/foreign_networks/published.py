"""PixArt-Sigma at its published size, random weights, at 1024x1024 to Core ML and ONNX: seconds, memory, PSNR.

    python benchmarks/foreign_networks/published.py [--backend onnx,coreml] [--grid 128]

Needs the package diffusers and about 16 GiB of memory; one row of JSON is appended to published.jsonl.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from foreign import source  # noqa: E402

from edgegen.foreign.export import export_sources  # noqa: E402
from edgegen.target import load_tier  # noqa: E402

SIGMA = {
    "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8, "num_layers": 28,
    "cross_attention_dim": 1152, "sample_size": 128, "caption_channels": 4096, "interpolation_scale": 2,
    "use_additional_conditions": False,
}  # fmt: skip
TOKENS = 300


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", default="onnx,coreml")
    parser.add_argument("--grid", type=int, default=128, help="latents a side: 128 for 1024 pixels")
    asked = parser.parse_args()
    made = source("PixArtTransformer2DModel", SIGMA, asked.grid, asked.grid, TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bundle"
        result = export_sources(
            "pixart-sigma", [made], load_tier("high-phone"), asked.backend.split(","), out, report=print
        )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    row = {"grid": asked.grid, "tokens": TOKENS, "weights": "random", "commit": commit, "source": "measured"}
    line = json.dumps(row | {k: v for k, v in result.to_dict().items() if k not in ("networks", "bundle")})
    with Path(__file__).with_name("published.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
