"""Run a stage, or all of them: fetch what it reads, train or resume it in `runs_dir/<stage>`, tell what came out."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgegen.emoji.assets import SIZE, fetch_emoji, render_emoji
from edgegen.emoji.data import EmojiData, autoencoder_split, load_rendered
from edgegen.emoji.scene_pictures import Sprites
from edgegen.emoji.scenes import SceneSource
from edgegen.emoji.teacher import fetch_teacher
from edgegen.errors import InputError, unknown
from edgegen.files import write_json
from edgegen.model.checkpoint_config import CheckpointConfig
from edgegen.model.config import DiTConfig
from edgegen.model.text import Tokenizers
from edgegen.runs import parallel
from edgegen.runs.device import check_compiler, native_bfloat16, pick_device
from edgegen.runs.run_state import saved_steps, state_folders
from edgegen.train.data.dataset import DataConfig
from edgegen.train.data.elastic_data import captioned_latents, scene_latents
from edgegen.train.outcome.samples import PromptGrid
from edgegen.train.recipe import STAGES, Recipe, load_recipe
from edgegen.train.run.kdmd_data import prepare_kdmd
from edgegen.train.run.own_data import prepare_own_data
from edgegen.train.stages.autoencoder import train_autoencoder
from edgegen.train.stages.decoder import train_decoder
from edgegen.train.stages.frozen import frozen_of_runs, load_frozen, open_source
from edgegen.train.stages.grow import opened_start
from edgegen.train.stages.kd import check_same_encoders, open_teacher, student_start, train_kd
from edgegen.train.stages.loop import Draw, TrainingData, ValidationData, train_elastic
from edgegen.train.stages.reading import Readings
from edgegen.train.stages.results import as_shipped_, autoencoder_result, read_log
from edgegen.train.stages.text import train_text
from edgegen.train.stages.text_data import load_text_data

SCENES = 1_000_000  # different ones that the small decoder may see
GRID_PROMPTS = ("a red heart", "a dog", "a pizza", "a rocket", "a blue dog", "a flat cat")
VALIDATION = "unseen_style"  # the split whose loss is watched: known things in a style they were never seen in


def train(
    source: str | Path,
    data_dir: Path,
    runs_dir: Path,
    overrides: Sequence[str] = (),
    device: str = "cpu",
    resume: bool = True,
) -> dict[str, Any]:
    """Trains the stage of a recipe (a name or a .toml file), resuming what is there; returns its last numbers.

    Later stages find the results of earlier ones in `runs_dir`. Under torchrun the stages of SHARED share the work.
    Without `resume` a run that is there is an error.
    """
    recipe = load_recipe(source, overrides)
    device = pick_device(device)
    parallel.join_if_launched(device)
    try:
        return run_stage(recipe, data_dir, runs_dir, device, resume)
    finally:
        parallel.leave()


def train_all(data_dir: Path, runs_dir: Path, overrides: Sequence[str] = ()) -> list[dict[str, Any]]:
    """All stages in order, in one process; overrides begin with a stage: `elastic.steps=100`."""
    split = split_by_stage(overrides)
    recipes = [load_recipe(stage, split[stage]) for stage in STAGES]  # refuses before anything runs
    return [run_stage(recipe, data_dir, runs_dir) for recipe in recipes]


def split_by_stage(overrides: Sequence[str]) -> dict[str, list[str]]:
    """The overrides of each stage, without its name."""
    split: dict[str, list[str]] = {stage: [] for stage in STAGES}
    for item in overrides:
        stage, _, rest = item.partition(".")
        if stage not in STAGES or not rest:
            raise unknown("stage at the start of", item, STAGES)
        split[stage].append(rest)
    return split


def run_stage(
    recipe: Recipe, data_dir: Path, runs_dir: Path, device: str = "cpu", resume: bool = True
) -> dict[str, Any]:
    """Trains one stage in its folder; nothing is written there before its input is known to be good."""
    check_processes(recipe.stage)
    check_device(recipe.stage, device)
    warn_of_slow_bfloat16(recipe)
    run_dir = runs_dir / recipe.stage
    if not resume:
        check_unused(run_dir)
    start = PREPARE[recipe.stage](recipe, data_dir, runs_dir, run_dir)
    before = steps_done(run_dir)
    if not before:
        write_note(run_dir, recipe)
    start(**({} if device == "cpu" else {"device": device}))
    parallel.wait()  # the first process may still be saving
    if steps_done(run_dir) != before:
        write_note(run_dir, recipe)  # a resumed run may have been given other steps
    return summary(recipe.stage, run_dir)


def steps_done(run_dir: Path) -> int:
    """The number of steps that a run's saved state has seen; of a run in folders, one a width, all together."""
    return sum(saved_steps(folder) for folder in state_folders(run_dir))


def write_note(run_dir: Path, recipe: Recipe) -> None:
    """What the run was started with, for the model card; widths with folders of their own may differ."""
    if parallel.rank() != 0:
        return
    width = getattr(recipe.training, "width", 0.0)
    widths = [run_dir / f"{width:g}"] if width else [folder for folder in state_folders(run_dir) if folder != run_dir]
    for folder in (run_dir, *widths):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "recipe.json", recipe.to_dict() | {"processes": parallel.world_size()})


def prepare_autoencoder(recipe: Recipe, data_dir: Path, runs_dir: Path, run_dir: Path) -> Callable[[], Any]:
    rendered = load_rendered(data_dir)
    seen = autoencoder_split(rendered.keys)
    images, held_out = rendered.images[seen], rendered.images[~seen]  # (M,128,128,3) each
    return partial(train_autoencoder, images, held_out, run_dir, recipe.model, recipe.training)


def prepare_decoder(recipe: Recipe, data_dir: Path, runs_dir: Path, run_dir: Path) -> Callable[[], Any]:
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


def prepare_text(recipe: Recipe, data_dir: Path, runs_dir: Path, run_dir: Path) -> Callable[[], Any]:
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


def prepare_elastic(recipe: Recipe, data_dir: Path, runs_dir: Path, run_dir: Path) -> Callable[[], Any]:
    if recipe.training.compile:
        check_compiler()
    start = opened_start(recipe.model, recipe.training, run_dir)
    seen, watched = training_latents(recipe.data, recipe.model, data_dir, runs_dir)
    draw = prompt_grid(recipe.model, runs_dir, recipe.data.encoders) if recipe.training.tensorboard else None
    return partial(train_elastic, seen, watched, run_dir, recipe.model, recipe.training, draw=draw, start=start)


def prepare_kd(recipe: Recipe, data_dir: Path, runs_dir: Path, run_dir: Path) -> Callable[[], Any]:
    training = recipe.training
    if not training.teacher:
        raise InputError("a distillation needs a teacher.", "Give one with --set teacher=DIR.")
    config, start = student_start(training.checkpoint, runs_dir)
    teacher = open_teacher(training.teacher, training.teacher_width, config)
    check_same_encoders(training.teacher, load_frozen(runs_dir, recipe.data.encoders))
    seen, watched = training_latents(recipe.data, config, data_dir, runs_dir)
    draw = prompt_grid(config, runs_dir, recipe.data.encoders) if training.tensorboard else None
    return partial(train_kd, seen, watched, run_dir, config, training, start, teacher, draw=draw)


def training_latents(
    data: DataConfig, config: DiTConfig, data_dir: Path, runs_dir: Path
) -> tuple[TrainingData, ValidationData]:
    """What a transformer trains on and what is watched: the user's data, or the emoji where there is none."""
    if data.path:
        return prepare_own_data(data, config, runs_dir)
    return emoji_latents(data, config, data_dir, runs_dir)


def prompt_grid(config: DiTConfig, runs_dir: Path, encoders: str) -> Draw:
    """Draws fixed prompts, some of them never seen, as the frozen encoders read and show them."""
    frozen = load_frozen(runs_dir, encoders)
    latent = (config.in_channels, *(side * config.patch for side in config.grid))
    return PromptGrid(GRID_PROMPTS, frozen.tokenizers, frozen.text, frozen.autoencoder.decoder, latent)


def emoji_latents(
    data: DataConfig, config: DiTConfig, data_dir: Path, runs_dir: Path
) -> tuple[TrainingData, ValidationData]:
    """What a transformer trains on and what is watched, as the earlier stages' results see pictures and captions."""
    frozen = load_frozen(runs_dir, data.encoders) if data.encoders else frozen_of_runs(runs_dir)
    checked = CheckpointConfig("", config, frozen.text_config, frozen.autoencoder_config)
    checked.latent_size((SIZE, SIZE))  # refuses what cannot fit
    if parallel.rank() == 0:
        render_emoji(fetch_emoji(data_dir))
    parallel.wait()  # the others read what the first has fetched
    emoji = EmojiData.load(data_dir)
    encoder, tokenizers, text = frozen.autoencoder.encoder, frozen.tokenizers, frozen.text
    seen = captioned_latents(emoji.subset("train"), encoder, tokenizers, text)
    if data.scenes:
        return scene_latents(seen, data.scenes, data.single_share, data_dir, encoder, tokenizers, text)
    return seen, captioned_latents(emoji.subset(VALIDATION), encoder, tokenizers, text)


PREPARE = {
    "autoencoder": prepare_autoencoder,
    "decoder": prepare_decoder,
    "text": prepare_text,
    "elastic": prepare_elastic,
    "kd": prepare_kd,
    "kdmd": prepare_kdmd,
}


SHARED = ("elastic", "kd")  # the stages that several processes can train
ON_DEVICES = (*SHARED, "kdmd")  # those that devices other than the CPU can


def check_device(stage: str, device: str) -> None:
    """Refuses a device that a stage does not use."""
    if stage not in ON_DEVICES and device != "cpu":
        raise InputError(f"stage {stage} trains on the CPU, not on {device}.", "Leave out --device.")


def check_unused(run_dir: Path) -> None:
    """Refuses a folder that holds a run."""
    if steps_done(run_dir):
        raise InputError(
            f"{run_dir} holds a run of {steps_done(run_dir)} steps.",
            "Leave out --no-resume to go on with it, or choose another folder with --runs.",
        )


def check_processes(stage: str) -> None:
    """Only some stages share their work; others would write one folder twice."""
    if stage not in SHARED and parallel.world_size() > 1:
        raise InputError(
            f"stage {stage} runs in one process, torchrun started {parallel.world_size()}.",
            "Start it without torchrun.",
        )


def warn_of_slow_bfloat16(recipe: Recipe) -> None:
    """One line where bfloat16 would be emulated, many times slower than fp32."""
    wanted = getattr(recipe.training, "bfloat16", False)  # other stages measure
    if wanted and platform.machine() == "x86_64" and not native_bfloat16() and parallel.rank() == 0:
        print(
            "This processor has no bfloat16 instructions: --set bfloat16=false will be several times faster.",
            file=sys.stderr,
        )


def summary(stage: str, run_dir: Path) -> dict[str, Any]:
    """The stage, its folder, the steps done and the last value of each number it logged."""
    numbers: dict[str, float] = {}
    for folder in state_folders(run_dir):
        suffix = "" if folder == run_dir else f"@{folder.name}"
        for row in read_log(folder):
            numbers |= {f"{name}{suffix}": value for name, value in row.items() if name not in ("step", "time")}
    return {"stage": stage, "run": str(run_dir), "steps": steps_done(run_dir), **numbers}
