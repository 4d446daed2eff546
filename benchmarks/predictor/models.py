"""What the published networks ask of a device, counted on the meta device from their public configurations.

`python -m benchmarks.predictor.models` counts them all anew (minutes) and writes operations.json.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgegen.bench.count_module import program_of_component, program_of_module
from edgegen.graph.operations import Totals
from edgegen.model.config import PAPER, DiTConfig, ladder
from edgegen.model.elastic import skeleton
from edgegen.rewrite.build import transformer_component
from edgegen.rewrite.component import Form

FOLDER = Path(__file__).parent
OPERATIONS = FOLDER / "operations.json"
LATENT, TEXT = (128, 128), 77  # 1024 x 1024 pixels; text tokens, which the paper does not give
LADDER_WIDTH = 0.5  # 437M: the published step D has the time of the small width


class LatentDecoder(nn.Module):
    """The decoding half of a diffusers autoencoder."""

    def __init__(self, autoencoder: Any):
        super().__init__()
        self.post, self.decoder = autoencoder.post_quant_conv, autoencoder.decoder

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.post(latent))


def published(path: Path) -> Totals:
    """One run of a network of configs/, batch 1."""
    import diffusers

    entry = json.loads(path.read_text())
    with torch.device("meta"):
        model = getattr(diffusers, entry["class"]).from_config(entry["config"]).eval()
    if entry["class"] == "AutoencoderKL":
        model = LatentDecoder(model)
    return program_of_module(model, named=empty(entry["inputs"])).totals


def empty(shapes: Any) -> Any:
    """Meta tensors in the place of shapes."""
    if isinstance(shapes, dict):
        return {name: empty(value) for name, value in shapes.items()}
    if shapes and isinstance(shapes[0], list):
        return [empty(value) for value in shapes]
    return torch.empty(shapes, device="meta")


def paper(step: str, width: float) -> Totals:
    """One step of the paper's transformer at 1024 x 1024: split form, whole heads as the paper's einsums have them."""
    config = ladder(step, PAPER).at(width)
    form = Form("split", query_chunk=LATENT[0] * LATENT[1])
    totals = program_of_component(transformer_component(skeleton(config), LATENT, TEXT, form)).totals
    return with_parameters(totals, config)


def with_parameters(totals: Totals, config: DiTConfig) -> Totals:
    """The same with the network's own parameters alone: rotary tables, equal in all layers, are stored once."""
    count = sum(parameter.numel() for parameter in skeleton(config).parameters())
    return replace(totals, weights=count).compressed(32)


def count_all() -> dict[str, Totals]:
    """Totals of every published network by name."""
    counted = {path.stem: published(path) for path in sorted((FOLDER / "configs").glob("*.json"))}
    counted |= {f"ladder-{step}": paper(step, LADDER_WIDTH) for step in "ABCD"}
    return counted | {f"width-{width:g}" if width < 1 else "width-1.0": paper("D", width) for width in PAPER.widths}


def load() -> dict[str, Totals]:
    """Totals as counted last."""
    return {name: Totals.from_dict(values) for name, values in json.loads(OPERATIONS.read_text()).items()}


if __name__ == "__main__":
    OPERATIONS.write_text(json.dumps({name: totals.to_dict() for name, totals in count_all().items()}, indent=1) + "\n")
