"""Qwen-Image: packed latents, joint attention with rotary positions from the middle of the grid."""

from __future__ import annotations

from typing import Any

import torch

from edgegen.foreign.families.family import Config, Family, Request


def inputs(config: Config, ask: Request) -> dict[str, Any]:
    h, w = ask.height // 2, ask.width // 2
    return {
        "hidden_states": ask.noise(1, h * w, config["in_channels"]),
        "encoder_hidden_states": ask.noise(1, ask.tokens, config["joint_attention_dim"], offset=1),
        "encoder_hidden_states_mask": ask.mask().bool(),
        "timestep": torch.tensor([ask.sigma]),
        "img_shapes": [[(1, h, w)]],
    }


FAMILY = Family(
    name="qwen-image", title="Qwen-Image", transformer="QwenImageTransformer2DModel", pipelines=("QwenImagePipeline",),
    inputs=inputs, mask="encoder_hidden_states_mask", packing="2x2, channels outermost",
    timestep="t / 1000", embedding={}, guidance_norm="last axis", text_length=512,
)  # fmt: skip
