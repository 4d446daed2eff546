"""The stage `decoder`: a small decoder distilled from the autoencoder's own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgegen.train.run.stage import Stage, Work

if TYPE_CHECKING:
    from edgegen.train.run.recipe import Recipe

SCENES = 1_000_000  # different ones that the small decoder may see


def settings() -> tuple[type, type]:
    from edgegen.train.stages.decoder import DecoderConfig, DecoderTraining

    return DecoderConfig, DecoderTraining


def prepare(recipe: Recipe, data_dir: Path, runs_dir: Path, run_dir: Path) -> Work:
    import numpy as np

    from edgegen.emoji.data import autoencoder_split, load_rendered
    from edgegen.emoji.scene_pictures import Sprites
    from edgegen.emoji.scenes import SceneSource
    from edgegen.train.stages.decoder import train_decoder
    from edgegen.train.stages.results import as_shipped_, autoencoder_result

    picture_config, autoencoder = autoencoder_result(runs_dir / "autoencoder")
    config = recipe.model.within(picture_config)
    rendered, sprites = load_rendered(data_dir), Sprites.load(data_dir)
    seen = autoencoder_split(rendered.keys)
    singles, scenes, unseen = rendered.images[seen], SceneSource("train"), SceneSource("combinations")
    sources = {
        "singles": (singles.__getitem__, len(singles)),
        "scenes": (lambda index: sprites.render(scenes[index]), SCENES),
    }
    held_out = {
        "singles": rendered.images[~seen],  # (M,128,128,3) each
        "scenes": np.stack([sprites.render(unseen[index]) for index in range(200)]),
    }
    return partial(train_decoder, sources, held_out, as_shipped_(autoencoder), run_dir, config, recipe.training)


STAGE = Stage(
    "decoder",
    "Distils a small decoder from the autoencoder's, or resumes it.",
    "edgegen train decoder --set model.widths=[128,64,32]",
    settings,
    prepare,
)
