"""PixArt-alpha and Sigma: cross-attention to T5, DDPM noise levels by number."""

from __future__ import annotations

from typing import Any

import torch

from edgegen.foreign.families.family import Config, Family, Request


def inputs(config: Config, ask: Request) -> dict[str, Any]:
    made: dict[str, Any] = {
        "hidden_states": ask.noise(1, config["in_channels"], ask.height, ask.width),
        "encoder_hidden_states": ask.noise(1, ask.tokens, config["caption_channels"], offset=1),
        "timestep": torch.tensor([int(999 * ask.sigma)]),
        "encoder_attention_mask": ask.mask(),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }
    more = config.get("use_additional_conditions")
    if config["sample_size"] == 128 if more is None else more:
        size = [float(8 * ask.height), float(8 * ask.width)]
        made["added_cond_kwargs"] = {
            "resolution": torch.tensor([size]),
            "aspect_ratio": torch.tensor([[ask.height / ask.width]]),
        }
    return made


FAMILY = Family(
    name="pixart", title="PixArt-α and Σ", transformer="PixArtTransformer2DModel",
    pipelines=("PixArtAlphaPipeline", "PixArtSigmaPipeline"), inputs=inputs, prediction="epsilon",
    sampler="DPM-Solver++", text_length=300,
)  # fmt: skip
