"""The stage `kd`: a larger teacher distilled into the transformer at all widths."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgegen.errors import InputError
from edgegen.train.run.stage import Stage, Work

if TYPE_CHECKING:
    from edgegen.train.run.recipe import Recipe


def settings() -> tuple[type, type]:
    from edgegen.train.stages.kd import KDTraining, Start

    return Start, KDTraining


def prepare(recipe: Recipe, data_dir: Path, runs_dir: Path, run_dir: Path) -> Work:
    from edgegen.train.run.transformer_data import prompt_grid, training_latents
    from edgegen.train.stages.frozen import load_frozen
    from edgegen.train.stages.kd import check_same_encoders, open_teacher, student_start, train_kd

    training = recipe.training
    if not training.teacher:
        raise InputError("a distillation needs a teacher.", "Give one with --set teacher=DIR.")
    config, start = student_start(training.checkpoint, runs_dir)
    teacher = open_teacher(training.teacher, training.teacher_width, config)
    check_same_encoders(training.teacher, load_frozen(runs_dir, recipe.data.encoders))
    seen, watched = training_latents(recipe.data, config, data_dir, runs_dir)
    draw = prompt_grid(config, runs_dir, recipe.data.encoders) if training.tensorboard else None
    return partial(train_kd, seen, watched, run_dir, config, training, start, teacher, draw=draw)


STAGE = Stage(
    "kd",
    "Distils a larger teacher into the transformer at all widths, or resumes it; data parallel under torchrun.",
    "edgegen train kd --set teacher=big --set feature_weight=0.5",
    settings,
    prepare,
    bundled=False,
    takes_data=True,
    shares_work=True,
    uses_devices=True,
)
