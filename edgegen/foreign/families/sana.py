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


# Sprint's pipeline scales latents and turns the velocity into what its scheduler takes.
NORM = "sqrt(timestep**2 + (1 - timestep)**2)"
SPRINT = {
    "prediction": "trigflow",
    "sampler": "SCM",
    "timestep": "sin(t) / (sin(t) + cos(t))",
    "input": f"x / sigma_data * {NORM}",
    "predicted": f"sigma_data * ((1 - 2 * timestep) * input + (1 - 2 * timestep + 2 * timestep**2) * output) / {NORM}",
    "noise": "sigma_data * x",
    "final": "x / sigma_data",
}
FAMILY = Family(
    name="sana", title="SANA, SANA-Sprint", transformer="SanaTransformer2DModel",
    pipelines=("SanaPipeline", "SanaSprintPipeline"), inputs=inputs, sampler="flow-matching DPM-Solver++",
    embedding=SPRINT, text_length=300,
)  # fmt: skip
