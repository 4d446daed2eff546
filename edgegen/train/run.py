"""Run a stage, or all of them: fetch what it reads, train or resume it in `runs_dir/<stage>`, tell what came out."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgegen.errors import InputError
from edgegen.files import write_json
from edgegen.model.checkpoint_config import CheckpointConfig
from edgegen.model.text import Tokenizers
from edgegen.target import unknown
from edgegen.train import parallel
from edgegen.train.assets import SIZE, fetch_emoji, render_emoji
from edgegen.train.autoencoder import train_autoencoder
from edgegen.train.data import EmojiData, autoencoder_split, load_rendered
from edgegen.train.decoder import train_decoder
from edgegen.train.elastic_data import captioned_latents
from edgegen.train.kdmd_data import prepare as prepare_adapters
from edgegen.train.loop import train_elastic
from edgegen.train.recipe import STAGES, Recipe, load_recipe
from edgegen.train.results import NOTHING, as_shipped_, autoencoder_result, read_log, read_state, text_result
from edgegen.train.scene_pictures import Sprites
from edgegen.train.scenes import SceneSource
from edgegen.train.teacher import fetch_teacher
from edgegen.train.text import train_text
from edgegen.train.text_data import load_text_data

SCENES = 1_000_000  # different ones that the small decoder may see
VALIDATION = "unseen_style"  # the split whose loss is watched: known things in a style they were never seen in


def train(source: str | Path, data_dir: Path, runs_dir: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Trains the stage of a recipe (a name or a .toml file), resuming what is there; returns its last numbers.

    Later stages find the results of earlier ones in `runs_dir`. Under torchrun the elastic stage is data parallel.
    """
    recipe = load_recipe(source, overrides)
    parallel.join_if_launched()
    try:
        return run_stage(recipe, data_dir, runs_dir)
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


def run_stage(recipe: Recipe, data_dir: Path, runs_dir: Path) -> dict[str, Any]:
    """Trains one stage in its folder; nothing is written there before its input is known to be good."""
    check_processes(recipe.stage)
    warn_of_slow_bfloat16(recipe)
    run_dir = runs_dir / recipe.stage
    start = PREPARE[recipe.stage](recipe, data_dir, runs_dir, run_dir)
    before = steps_done(run_dir)
    if not before:
        write_note(run_dir, recipe)
    start()
    parallel.wait()  # the first process may still be saving
    if steps_done(run_dir) != before:
        write_note(run_dir, recipe)  # a resumed run may have been given other steps
    return summary(recipe.stage, run_dir)


def steps_done(run_dir: Path) -> int:
    """The number of steps that a run's saved state has seen; of a run in folders, one a width, all together."""
    return sum(read_state(folder, NOTHING).step for folder in state_folders(run_dir))


def state_folders(run_dir: Path) -> list[Path]:
    """The folders of a run that hold a saved state: its own, or one for each width."""
    inner = sorted(path.parent for path in run_dir.glob("*/state.safetensors"))
    return [run_dir] if (run_dir / "state.safetensors").is_file() else inner


def write_note(run_dir: Path, recipe: Recipe) -> None:
    """What the run was started with, for the model card."""
    if parallel.rank() == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_json(run_dir / "recipe.json", recipe.to_dict() | {"processes": parallel.world_size()})


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
    sources = {"singles": (singles.__getitem__, len(singles)),
               "scenes": (lambda index: sprites.render(scenes[index]), SCENES)}
    held_out = {"singles": rendered.images[~seen],  # (M,128,128,3) each
                "scenes": np.stack([sprites.render(unseen[index]) for index in range(200)])}
    return partial(train_decoder, sources, held_out, as_shipped_(autoencoder), run_dir, config, recipe.training)


def prepare_text(recipe: Recipe, data_dir: Path, runs_dir: Path, run_dir: Path) -> Callable[[], Any]:
    data = load_text_data(fetch_emoji(data_dir), fetch_teacher(data_dir), run_dir, recipe.model)
    return partial(train_text, data.tokens, data.targets, data.split, run_dir, recipe.model, recipe.training)


def prepare_elastic(recipe: Recipe, data_dir: Path, runs_dir: Path, run_dir: Path) -> Callable[[], Any]:
    picture_config, autoencoder = autoencoder_result(runs_dir / "autoencoder")
    text_config, encoders, _ = text_result(runs_dir / "text")
    CheckpointConfig("", recipe.model, text_config, picture_config).latent_size((SIZE, SIZE))  # refuses what cannot fit
    if parallel.rank() == 0:
        render_emoji(fetch_emoji(data_dir))
    parallel.wait()  # the others read what the first has fetched
    data = EmojiData.load(data_dir)
    encoder, tokenizers = as_shipped_(autoencoder.encoder), Tokenizers.load(runs_dir / "text" / "tokenizer")
    text = as_shipped_(encoders)
    seen = captioned_latents(data.subset("train"), encoder, tokenizers, text)
    watched = captioned_latents(data.subset(VALIDATION), encoder, tokenizers, text)
    return partial(train_elastic, seen, watched, run_dir, recipe.model, recipe.training)


def prepare_kdmd(recipe: Recipe, data_dir: Path, runs_dir: Path, run_dir: Path) -> Callable[[], Any]:
    return prepare_adapters(recipe.model, recipe.training, data_dir, runs_dir, run_dir)


PREPARE = {"autoencoder": prepare_autoencoder, "decoder": prepare_decoder, "text": prepare_text,
           "elastic": prepare_elastic, "kdmd": prepare_kdmd}


def check_processes(stage: str) -> None:
    """Only the elastic stage shares its work; others would write one folder twice."""
    if stage != "elastic" and parallel.world_size() > 1:
        raise InputError(f"stage {stage} runs in one process, torchrun started {parallel.world_size()}.",
                         "Start it without torchrun.")


def warn_of_slow_bfloat16(recipe: Recipe) -> None:
    """One line where bfloat16 would be emulated, many times slower than fp32."""
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    wanted = getattr(recipe.training, "bfloat16", False)  # other stages measure
    if wanted and platform.machine() == "x86_64" and not native and parallel.rank() == 0:
        print("This processor has no bfloat16 instructions: --set bfloat16=false will be several times faster.",
              file=sys.stderr)


def summary(stage: str, run_dir: Path) -> dict[str, Any]:
    """The stage, its folder, the steps done and the last value of each number it logged."""
    numbers: dict[str, float] = {}
    for folder in state_folders(run_dir):
        suffix = "" if folder == run_dir else f"@{folder.name}"
        for row in read_log(folder):
            numbers |= {f"{name}{suffix}": value for name, value in row.items() if name not in ("step", "time")}
    return {"stage": stage, "run": str(run_dir), "steps": steps_done(run_dir), **numbers}
