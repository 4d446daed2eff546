"""Checkpoints of random weights in the shape of a preset: to try the real size before there is a trained model."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from edgegen.errors import InputError
from edgegen.model.autoencoder import AutoencoderConfig
from edgegen.model.checkpoint import PARTS, Checkpoint, reopen_folder, shape_configs
from edgegen.model.checkpoint_config import CheckpointConfig
from edgegen.model.config import PRESETS
from edgegen.model.sampler import SamplerConfig
from edgegen.model.states import RandomState, part_shapes
from edgegen.model.text import ByteTokenizer, EncoderConfig, TextConfig


def byte_only(width: int, length: int) -> TextConfig:
    """A text configuration that needs no vocabulary: a small byte encoder alone."""
    encoder = EncoderConfig(ByteTokenizer().vocabulary, length, width=192, depth=3, heads=3, ffn_ratio=4)
    return TextConfig(word=None, byte=encoder, width=width)


def preset_config(name: str) -> CheckpointConfig:
    """A preset's transformer with text and picture parts that fit it, four steps at shift 3, no guidance."""
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, 1, cutoff=0.4)
        raise InputError(
            f"unknown preset {name!r}.",
            (f"Did you mean {close[0]}? " if close else "") + f"Known: {', '.join(PRESETS)}.",
        )
    transformer = PRESETS[name]
    autoencoder = AutoencoderConfig(latent_channels=transformer.in_channels)
    return CheckpointConfig(name, transformer, byte_only(transformer.text_dim, 128), autoencoder, SamplerConfig(4, 3.0))


def random_preset(name: str, seed: int = 0) -> Checkpoint:
    """A checkpoint of random weights in the shape of a preset; nothing is stored."""
    return random_checkpoint(preset_config(name), seed)


def random_checkpoint(config: CheckpointConfig, seed: int = 0) -> Checkpoint:
    """A checkpoint of random weights; its text configuration must have no word encoder, which needs a vocabulary."""
    shapes = shape_configs(config)
    states = {part: RandomState(part_shapes(part, *shapes), seed) for part in (*PARTS, "encoder")}
    if config.text.word is not None or config.text.byte is None:
        raise InputError("random weights have no vocabulary for a word encoder.", "Configure a byte encoder alone.")
    tokenizer = ByteTokenizer(length=config.text.byte.length)
    files = {"byte.json": json.dumps(asdict(tokenizer)).encode()}
    return Checkpoint(config, states, files, {"kind": "random", "name": config.name, "seed": seed})


def reopen(origin: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint a manifest names, from its folder or made again; an error when it is gone or has changed."""
    try:
        if origin["kind"] == "random":
            return random_preset(origin["name"], int(origin["seed"]))
        return reopen_folder(origin)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"the manifest does not say what its checkpoint is ({type(error).__name__} {error}).",
            "Give the folder of the checkpoint with --checkpoint.",
        ) from None
