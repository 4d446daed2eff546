"""The stage `text`: text encoders distilled from sentence embeddings."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgegen.errors import InputError
from edgegen.train.run.stage import Stage, Work

if TYPE_CHECKING:
    from edgegen.train.run.recipe import Recipe


def settings() -> tuple[type, type]:
    from edgegen.model.text import TextConfig
    from edgegen.train.stages.text import TextTraining

    return TextConfig, TextTraining


def prepare(recipe: Recipe, data_dir: Path, runs_dir: Path, run_dir: Path) -> Work:
    from edgegen.emoji.assets import fetch_emoji
    from edgegen.emoji.scenes import SceneSource
    from edgegen.emoji.teacher import fetch_teacher
    from edgegen.model.text import Tokenizers
    from edgegen.train.stages.frozen import open_source
    from edgegen.train.stages.reading import Readings
    from edgegen.train.stages.text import train_text
    from edgegen.train.stages.text_data import load_text_data

    training, begun = recipe.training, None
    if training.start:
        begun = open_source(training.start)
        if begun.config.text != recipe.model:
            raise InputError(
                f"the text encoders of {training.start} have another configuration than the recipe.",
                "Leave the model's settings as they are there.",
            )
    data = load_text_data(
        fetch_emoji(data_dir), fetch_teacher(data_dir), run_dir, recipe.model, begun.tokenizer_files if begun else {}
    )
    tokenizers = Tokenizers.load(run_dir / "tokenizer")
    readings = (
        Readings.of(SceneSource("train", captions=1).__getitem__, training.reading_captions, tokenizers)
        if training.reading
        else None
    )
    return partial(
        train_text,
        data.tokens,
        data.targets,
        data.split,
        run_dir,
        recipe.model,
        training,
        readings=readings,
        start=begun.states["text_encoder"] if begun else None,
    )


STAGE = Stage(
    "text",
    "Distils the text encoders, or resumes them.",
    "edgegen train text --set model.width=192",
    settings,
    prepare,
)
