"""The stage `kdmd`: four-step adapters distilled from the guided transformer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgegen.train.run.stage import Stage, Work

if TYPE_CHECKING:
    from edgegen.train.run.recipe import Recipe


def settings() -> tuple[type, type]:
    from edgegen.train.stages.adapters import LoraConfig
    from edgegen.train.stages.kdmd_run import KdmdTraining

    return LoraConfig, KdmdTraining


def prepare(recipe: Recipe, data_dir: Path, runs_dir: Path, run_dir: Path) -> Work:
    """One width is distilled in `run_dir`/<width>, or all, one after the other."""
    from edgegen.train.run.kdmd_data import base_checkpoint, chosen_widths, distil, prompt_data

    training = recipe.training
    checkpoint = base_checkpoint(training.checkpoint, runs_dir)
    widths = chosen_widths(checkpoint, training)
    data, validation = prompt_data(checkpoint, training, recipe.data, data_dir, runs_dir)
    return partial(distil, checkpoint, widths, data, validation, run_dir, recipe.model, training)


STAGE = Stage(
    "kdmd",
    "Distils four-step adapters of one width or all, or resumes them.",
    "edgegen train kdmd --runs runs --set width=0.375 --set guidance=3",
    settings,
    prepare,
    takes_data=True,
    uses_devices=True,
)
