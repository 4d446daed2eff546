"""FLUX.1 and FLUX.2 (klein): packed latents, positions as an input that becomes part of the program."""

from __future__ import annotations

from typing import Any

import torch

from edgegen.foreign.families.family import Config, Family, Request, grid_ids


def packed(config: Config, ask: Request) -> tuple[int, int]:
    """Tokens down and across: a token is 2x2 latents."""
    return ask.height // 2, ask.width // 2


def first_inputs(config: Config, ask: Request) -> dict[str, Any]:
    h, w = packed(config, ask)
    made = {
        "hidden_states": ask.noise(1, h * w, config["in_channels"]),
        "encoder_hidden_states": ask.noise(1, ask.tokens, config["joint_attention_dim"], offset=1),
        "pooled_projections": ask.noise(1, config["pooled_projection_dim"], offset=2),
        "timestep": torch.tensor([ask.sigma]),
        "img_ids": grid_ids(h, w, 3),
        "txt_ids": torch.zeros(ask.tokens, 3),
    }
    if config.get("guidance_embeds"):
        made["guidance"] = torch.tensor([3.5 + ask.seed])
    return made


def second_inputs(config: Config, ask: Request) -> dict[str, Any]:
    h, w = packed(config, ask)
    text = torch.zeros(1, ask.tokens, 4)
    text[..., 3] = torch.arange(ask.tokens)
    made = {
        "hidden_states": ask.noise(1, h * w, config["in_channels"]),
        "encoder_hidden_states": ask.noise(1, ask.tokens, config["joint_attention_dim"], offset=1),
        "timestep": torch.tensor([ask.sigma]),
        "img_ids": grid_ids(h, w, 4)[None],
        "txt_ids": text,
    }
    if config.get("guidance_embeds", True):
        made["guidance"] = torch.tensor([4.0 + ask.seed])
    return made


FIRST = Family(
    name="flux", title="FLUX.1", transformer="FluxTransformer2DModel", pipelines=("FluxPipeline",), inputs=first_inputs,
    constant=("img_ids", "txt_ids"), guidance="none", embedding={}, packing="2x2, channels outermost",
    timestep="t / 1000", text_length=512,
)  # fmt: skip
SECOND = Family(
    name="flux2", title="FLUX.2 (klein)", transformer="Flux2Transformer2DModel",
    pipelines=("Flux2Pipeline", "Flux2KleinPipeline"), inputs=second_inputs, constant=("img_ids", "txt_ids"),
    embedding={}, packing="2x2, channels outermost", timestep="t / 1000", text_length=512,
)  # fmt: skip
