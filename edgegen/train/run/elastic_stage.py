"""The stage `elastic`: the transformer at all widths."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgegen.train.run.stage import Stage, Work

if TYPE_CHECKING:
    from edgegen.train.run.recipe import Recipe


def settings() -> tuple[type, type]:
    from edgegen.model.config import DiTConfig
    from edgegen.train.stages.loop import ElasticTraining

    return DiTConfig, ElasticTraining


def prepare(recipe: Recipe, data_dir: Path, runs_dir: Path, run_dir: Path) -> Work:
    from edgegen.runs.device import check_compiler
    from edgegen.train.run.transformer_data import prompt_grid, training_latents
    from edgegen.train.stages.grow import open_start
    from edgegen.train.stages.loop import train_elastic

    if recipe.training.compile:
        check_compiler()
    start = open_start(recipe.model, recipe.training, run_dir)
    seen, watched = training_latents(recipe.data, recipe.model, data_dir, runs_dir)
    draw = prompt_grid(recipe.model, runs_dir, recipe.data.encoders) if recipe.training.tensorboard else None
    return partial(train_elastic, seen, watched, run_dir, recipe.model, recipe.training, draw=draw, start=start)


STAGE = Stage(
    "elastic",
    "Trains the transformer at all widths, or resumes it; data parallel under torchrun.",
    "torchrun --nproc-per-node 2 -m edgegen train elastic --data data --runs runs",
    settings,
    prepare,
    takes_data=True,
    shares_work=True,
    uses_devices=True,
)
