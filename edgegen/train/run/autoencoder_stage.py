"""The stage `autoencoder`: pictures to latents and back."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgegen.train.run.stage import Stage, Work

if TYPE_CHECKING:
    from edgegen.train.run.recipe import Recipe


def settings() -> tuple[type, type]:
    from edgegen.model.autoencoder import AutoencoderConfig
    from edgegen.train.stages.autoencoder import AutoencoderTraining

    return AutoencoderConfig, AutoencoderTraining


def prepare(recipe: Recipe, data_dir: Path, runs_dir: Path, run_dir: Path) -> Work:
    from edgegen.emoji.data import autoencoder_split, load_rendered
    from edgegen.train.stages.autoencoder import train_autoencoder

    rendered = load_rendered(data_dir)
    seen = autoencoder_split(rendered.keys)
    images, held_out = rendered.images[seen], rendered.images[~seen]  # (M,128,128,3) each
    return partial(train_autoencoder, images, held_out, run_dir, recipe.model, recipe.training)


STAGE = Stage(
    "autoencoder",
    "Trains the picture autoencoder, or resumes it.",
    "edgegen train autoencoder --set steps=2000",
    settings,
    prepare,
)
