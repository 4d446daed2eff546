"""Stable Diffusion 3 and 3.5: joint attention, pooled text."""

from __future__ import annotations

from typing import Any

import torch

from edgegen.foreign.families.family import Config, Family, Request


def inputs(config: Config, ask: Request) -> dict[str, Any]:
    return {
        "hidden_states": ask.noise(1, config["in_channels"], ask.height, ask.width),
        "encoder_hidden_states": ask.noise(1, ask.tokens, config["joint_attention_dim"], offset=1),
        "pooled_projections": ask.noise(1, config["pooled_projection_dim"], offset=2),
        "timestep": torch.tensor([1000 * ask.sigma]),
    }


FAMILY = Family(
    name="sd3", title="Stable Diffusion 3 and 3.5", transformer="SD3Transformer2DModel",
    pipelines=("StableDiffusion3Pipeline",), inputs=inputs, text_length=333,
    optional=("text_encoder_3",),
)  # fmt: skip
