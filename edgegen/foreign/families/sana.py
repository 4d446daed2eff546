"""SANA and SANA-Sprint: linear attention, a deep autoencoder; Sprint embeds its guidance."""

from __future__ import annotations

from typing import Any

import torch

from edgegen.foreign.families.family import Config, Family, Request


def inputs(config: Config, ask: Request) -> dict[str, Any]:
    made: dict[str, Any] = {
        "hidden_states": ask.noise(1, config["in_channels"], ask.height, ask.width),
        "encoder_hidden_states": ask.noise(1, ask.tokens, config["caption_channels"], offset=1),
        "timestep": torch.tensor([1000 * ask.sigma]),
        "encoder_attention_mask": ask.mask(),
    }
    if config.get("guidance_embeds"):
        made["guidance"] = torch.tensor([4.5 * config.get("guidance_embeds_scale", 0.1) * (1 + ask.seed)])
    return made


FAMILY = Family(
    name="sana", title="SANA, SANA-Sprint", transformer="SanaTransformer2DModel",
    pipelines=("SanaPipeline", "SanaSprintPipeline"), inputs=inputs, sampler="flow-matching DPM-Solver++ or SCM",
    text_length=300,
)  # fmt: skip
