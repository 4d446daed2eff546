"""What few-step distillation starts from: a checkpoint's transformer, and prompts as its text encoders read them.

Shapes: K prompts, L text tokens, T text channels, B batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgegen.emoji.assets import fetch_emoji, render_emoji
from edgegen.emoji.data import EmojiData
from edgegen.errors import InputError
from edgegen.model.checkpoint import Checkpoint, bundled_folder, load_checkpoint
from edgegen.model.config import DiTConfig
from edgegen.model.text import masked_mean
from edgegen.prompts import read_prompts
from edgegen.train.data.captioned_latents import CaptionedLatents
from edgegen.train.data.dataset import DataConfig
from edgegen.train.data.elastic_data import captioned_latents, scene_latents
from edgegen.train.data.encoded import cache_text
from edgegen.train.run.collect import checkpoint_of_runs
from edgegen.train.run.own_data import prepare_own_data
from edgegen.train.stages.adapters import LoraConfig
from edgegen.train.stages.kdmd_run import KdmdTraining, PromptSource, TextCondition, train_kdmd
from edgegen.train.stages.results import as_shipped_


@dataclass(frozen=True)
class Prompts:
    """Prompts alone, cached as text tokens: what distillation needs when there are no pictures."""

    text: Tensor  # (K, L, T)
    mask: Tensor  # (K, L)
    latent: tuple[int, ...]  # (C, h, w)
    word_tokens: int

    def batch(self, training: Any, step: int, rank: int, world: int) -> tuple[Tensor, ...]:
        """x0 (zeros), noise, t, text, mask, pooled: a process's rows of a batch that depends on (seed, step) alone."""
        g, count = torch.Generator().manual_seed((training.seed * 1_000_003 + step) * 4099), training.batch
        picked = torch.randint(len(self.text), (count,), generator=g)
        captioned = CaptionedLatents(torch.empty(0), [], self.text, self.mask, self.word_tokens)
        mask = captioned.drop_encoders(self.mask[picked].float(), training.drop_encoder, g)  # (B, L)
        noise, t = torch.randn(count, *self.latent, generator=g), torch.rand(count, generator=g)
        text = self.text[picked].float() * mask[..., None]  # (B, L, T)
        rows = slice(rank * count // world, (rank + 1) * count // world)
        whole = (torch.zeros_like(noise), noise, t, text, mask, masked_mean(text, mask))
        return tuple(part[rows] for part in whole)


def distil(
    checkpoint: Checkpoint,
    widths: list[float],
    data: PromptSource,
    validation: Any,
    run_dir: Path,
    lora: LoraConfig,
    training: KdmdTraining,
    device: str = "cpu",
) -> None:
    """Distils each width in its own folder."""
    unconditional = empty_condition(checkpoint)
    watched = validation if isinstance(validation, CaptionedLatents) else None  # buckets have latents of many sizes
    for width in widths:
        base = checkpoint.transformer(width, adapters=False)
        train_kdmd(
            base,
            data,
            watched,
            unconditional,
            run_dir / f"{width:g}",
            lora,
            replace(training, width=width),
            device=device,
        )


def chosen_widths(checkpoint: Checkpoint, training: KdmdTraining) -> list[float]:
    """The width asked for, or all; an unknown one is an error."""
    if training.width:
        checkpoint.config.transformer.at(training.width)
    return [training.width] if training.width else list(checkpoint.config.transformer.widths)


def base_checkpoint(folder: str, runs_dir: Path) -> Checkpoint:
    """The checkpoint in a folder; without one, what the runs hold, or else the bundled one."""
    if folder:
        checkpoint = load_checkpoint(folder)
    elif (runs_dir / "elastic" / "state.safetensors").is_file():
        checkpoint = checkpoint_of_runs(runs_dir)
    else:
        checkpoint = load_checkpoint(bundled_folder())
    if getattr(checkpoint.config, "quantization", None) is not None:
        raise InputError(f"checkpoint {checkpoint.config.name} is quantized.", "Distil the one it was made of.")
    return checkpoint


def empty_condition(checkpoint: Checkpoint) -> TextCondition:
    """The empty prompt's text (1, L, T), mask (1, L) and, where the transformer wants it, pooled text (1, T)."""
    text, mask, _ = cache_text([""], checkpoint.tokenizers(), as_shipped_(checkpoint.text_encoders()))
    text, mask = text.float(), mask.float()
    return (text, mask, masked_mean(text, mask))[: 3 if checkpoint.config.transformer.pooled_text else 2]


def prompt_data(
    checkpoint: Checkpoint, training: KdmdTraining, data: DataConfig, data_dir: Path, runs_dir: Path
) -> tuple[PromptSource, Any]:
    """Where prompts come from, and the real latents to compare samples with, if any."""
    tokenizers, encoders = checkpoint.tokenizers(), checkpoint.text_encoders()
    if training.prompts:
        words = tokenizers.word_length if tokenizers.word is not None else 0
        text, mask, _ = cache_text(read_prompts(Path(training.prompts)), tokenizers, encoders)
        return Prompts(text, mask, latent_shape(checkpoint.config.transformer), words), None
    if data.path:
        read_as = training.checkpoint or data.encoders
        return prepare_own_data(replace(data, encoders=read_as), checkpoint.config.transformer, runs_dir)
    render_emoji(fetch_emoji(data_dir))
    encoder = checkpoint.encoder()
    seen = captioned_latents(EmojiData.load(data_dir).subset("train"), encoder, tokenizers, encoders)
    if data.scenes:
        return scene_latents(seen, data.scenes, data.single_share, data_dir, encoder, tokenizers, encoders)
    return seen, seen


def latent_shape(config: DiTConfig) -> tuple[int, ...]:
    """(C, h, w) of the latents a model was trained on."""
    return config.in_channels, config.grid[0] * config.patch, config.grid[1] * config.patch
