"""Example inputs of a transformer that no family declares, by the names of its inputs and the sizes in its config."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from edgegen.errors import InputError
from edgegen.foreign.families.family import Config, Request

TEXT_SIZES = (
    "caption_channels",
    "joint_attention_dim",
    "cross_attention_dim",
    "text_embed_dim",
    "cap_feat_dim",
    "text_dim",
    "caption_projection_dim",
    "encoder_hid_dim",
)
POOLED_SIZES = ("pooled_projection_dim", "pooled_embed_dim", "text_pooled_dim")


def first(config: Config, names: Sequence[str]) -> int | None:
    """The first whole number that a config has under one of the names."""
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)


def guessed_inputs(module: nn.Module, config: Config, ask: Request) -> dict[str, Any]:
    """Inputs for every argument that a transformer needs; InputError names the one that cannot be guessed."""
    made: dict[str, Any] = {}
    for name, parameter in inspect.signature(module.forward).parameters.items():
        value = guessed(name, config, ask)
        if value is not None:
            made[name] = value
        elif parameter.default is inspect.Parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            raise InputError(
                f"{type(module).__name__} needs {name!r}, which no family declares.",
                "Build it in a file with example inputs, and give that with --module FILE.py:FUNCTION.",
            )
    return made


def guessed(name: str, config: Config, ask: Request) -> Any:
    """A value for one argument; None where its default serves."""
    text, pooled = first(config, TEXT_SIZES), first(config, POOLED_SIZES)
    if name in ("hidden_states", "sample", "latent", "latents"):
        return ask.noise(1, config.get("in_channels", 4), ask.height, ask.width)
    if name in ("timestep", "timesteps", "t"):
        return torch.tensor([1000 * ask.sigma])
    if name in ("encoder_hidden_states", "text", "context") and text:
        return ask.noise(1, ask.tokens, text, offset=1)
    if name in ("pooled_projections", "pooled_text") and pooled:
        return ask.noise(1, pooled, offset=2)
    if name in ("class_labels",) and config.get("num_embeds_ada_norm"):
        return torch.tensor([ask.seed % int(config["num_embeds_ada_norm"])])
    if name in ("target_size", "original_size"):
        return torch.tensor([[8.0 * ask.height, 8.0 * ask.width]])
    if name == "crop_coords":
        return torch.zeros(1, 2)
    return None
