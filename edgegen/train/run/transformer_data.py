"""What a transformer trains on and is watched by: the user's pictures, or emoji as the earlier stages see them."""

from __future__ import annotations

from pathlib import Path

from edgegen.emoji.assets import SIZE, fetch_emoji, render_emoji
from edgegen.emoji.data import EmojiData
from edgegen.model.checkpoint_config import CheckpointConfig
from edgegen.model.config import DiTConfig
from edgegen.runs import parallel
from edgegen.train.data.dataset import DataConfig
from edgegen.train.data.elastic_data import captioned_latents, scene_latents
from edgegen.train.run.own_data import prepare_own_data
from edgegen.train.run.samples import PromptGrid
from edgegen.train.stages.frozen import frozen_of_runs, load_frozen
from edgegen.train.stages.loop import DrawGrids, TrainingData, ValidationData

GRID_PROMPTS = ("a red heart", "a dog", "a pizza", "a rocket", "a blue dog", "a flat cat")
VALIDATION = "unseen_style"  # the split whose loss is watched: known things in a style they were never seen in


def training_latents(
    data: DataConfig, config: DiTConfig, data_dir: Path, runs_dir: Path
) -> tuple[TrainingData, ValidationData]:
    """What a transformer trains on and what is watched: the user's data, or the emoji where there is none."""
    if data.path:
        return prepare_own_data(data, config, runs_dir)
    return emoji_latents(data, config, data_dir, runs_dir)


def prompt_grid(config: DiTConfig, runs_dir: Path, encoders: str) -> DrawGrids:
    """Draws fixed prompts, some of them never seen, as the frozen encoders read and show them."""
    frozen = load_frozen(runs_dir, encoders)
    height, width = (side * config.patch for side in config.grid)
    latent = (config.in_channels, height, width)
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
