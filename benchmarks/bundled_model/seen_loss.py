"""How much less loss scenes have that training saw: the bundled transformer on three sets of 256, noise fixed.

The sets are new scenes of known facts, the first 256 of training's, and 256 of those that only the last run's larger
pool held. Prints a table and appends a row to seen_loss.jsonl.

usage: python benchmarks/bundled_model/seen_loss.py --data data    (after: edgegen train fetch --data data)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgegen.bench.records import append_study
from edgegen.emoji.scene_pictures import Sprites
from edgegen.emoji.scenes import SceneSource
from edgegen.model.dit import DiT
from edgegen.model.flow import validation_loss
from edgegen.model.pixels import to_tensor
from edgegen.model.text import masked_mean
from edgegen.train.data.elastic_data import WATCHED_SEED
from edgegen.train.data.scene_data import Pool, scene_validation
from edgegen.train.stages.frozen import BUNDLED, load_frozen, open_source

COUNT = 256
SETS = {"new": (WATCHED_SEED, 0), "first of 20,000": (0, 0), "new with 60,000": (0, 40_000)}  # seed, first scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    sprites, checkpoint = Sprites.load(parser.parse_args().data), open_source(BUNDLED)
    widths = checkpoint.config.transformer.widths
    models = {width: checkpoint.transformer(width, adapters=False) for width in widths}
    losses = {name: losses_of(models, *where, sprites) for name, where in SETS.items()}
    print("| scenes |", " | ".join(f"width {width:g}" for width in widths), "|")
    for name, found in losses.items():
        cells = [f"{found[width]:.4f} ({found[width] / losses['new'][width] - 1:+.1%})" for width in widths]
        print(f"| {name} |", " | ".join(cells), "|")
    append_study(
        Path(__file__).with_suffix(".jsonl"),
        {"scenes": COUNT, "sets": SETS},
        {name: {f"{w:g}": loss for w, loss in of_width.items()} for name, of_width in losses.items()},
    )


@torch.no_grad()
def losses_of(models: dict[float, DiT], seed: int, first: int, sprites: Sprites) -> dict[float, float]:
    """The flow-matching loss of each width on scenes `first` to `first` + 255 of the source with this seed."""
    frozen, source = load_frozen(Path(), BUNDLED), SceneSource("train", seed=seed)
    scenes = [source[first + index] for index in range(COUNT)]
    latents = frozen.autoencoder.encoder(to_tensor(np.stack([sprites.render(scene) for scene in scenes])))
    data = scene_validation(Pool(latents.half(), [scene.captions for scene in scenes]), frozen.tokenizers, frozen.text)
    text, mask = data.text.float(), data.mask.float()
    condition = text, mask, masked_mean(text, mask)

    def loss(model: DiT) -> float:
        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return model(x, t, *condition)

        return validation_loss(velocity, data.latents)

    return {width: loss(model) for width, model in models.items()}


if __name__ == "__main__":
    main()
