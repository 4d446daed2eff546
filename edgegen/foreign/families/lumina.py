"""Lumina-Next and Lumina2: rotary positions of the grid; Lumina2's picture tokens come after the caption."""

from __future__ import annotations

from typing import Any

import torch

from edgegen.foreign.families.family import Config, Family, Request


def next_inputs(config: Config, ask: Request) -> dict[str, Any]:
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    size = config["hidden_size"] // config["num_attention_heads"]
    return {
        "hidden_states": ask.noise(1, config["in_channels"], ask.height, ask.width),
        "timestep": torch.tensor([1 - ask.sigma + 0.01]),
        "encoder_hidden_states": ask.noise(1, ask.tokens, config["cross_attention_dim"], offset=1),
        "encoder_mask": ask.mask(),
        "image_rotary_emb": get_2d_rotary_pos_embed_lumina(size, ask.height, ask.width),
        "cross_attention_kwargs": {},
    }


def second_inputs(config: Config, ask: Request) -> dict[str, Any]:
    return {
        "hidden_states": ask.noise(1, config["in_channels"], ask.height, ask.width),
        "timestep": torch.tensor([1 - ask.sigma + 0.01]),
        "encoder_hidden_states": ask.noise(1, ask.tokens, config["cap_feat_dim"], offset=1),
        "encoder_attention_mask": torch.ones(1, ask.tokens, dtype=torch.bool),
    }


NEXT = Family(
    name="lumina-next", title="Lumina-Next", transformer="LuminaNextDiT2DModel", pipelines=("LuminaPipeline",),
    inputs=next_inputs, constant=("image_rotary_emb",),
)  # fmt: skip
SECOND = Family(
    name="lumina2", title="Lumina2", transformer="Lumina2Transformer2DModel", pipelines=("Lumina2Pipeline",),
    inputs=second_inputs, constant=("encoder_attention_mask",),
)  # fmt: skip
