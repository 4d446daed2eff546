"""Lumina-Next and Lumina2: rotary positions of the grid; Lumina2's picture tokens come after the caption."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgegen.foreign.adopt import adopt_
from edgegen.foreign.families.family import Config, Family, Request, split_batch, too_long
from edgegen.foreign.families.masking import at_the_end, masked


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


class Lumina2(nn.Module):
    """Lumina2 with its caption at the end of a text of one length: its positions are then those of a full one."""

    def __init__(self, network: Any):
        super().__init__()
        self.__dict__["network"] = network  # not registered: names stay the checkpoint's
        adopt_(self, network)

    def forward(
        self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> Tensor:
        """encoder_attention_mask: (1, L), true for the last tokens."""
        count = hidden_states[0, 0].numel() // self.network.config.patch_size**2
        kept = encoder_attention_mask.bool()
        both = torch.cat([kept, torch.ones(1, count, dtype=torch.bool)], 1)  # (1, L + N)
        full = torch.ones(encoder_attention_mask.shape, dtype=torch.bool)
        with masked(self.network.context_refiner, kept), masked(self.network.layers, both):
            return self.network(hidden_states, timestep, encoder_hidden_states, full, return_dict=False)[0]


def second_inputs(config: Config, ask: Request) -> dict[str, Any]:
    return {
        "hidden_states": ask.noise(1, config["in_channels"], ask.height, ask.width),
        "timestep": torch.tensor([1 - ask.sigma + 0.01]),
        "encoder_hidden_states": ask.noise(1, ask.tokens, config["cap_feat_dim"], offset=1),
        "encoder_attention_mask": ask.mask().bool().flip(1),
    }


def second_rows(given: dict[str, Any], length: int) -> list[dict[str, Any]]:
    """Captions that are filled at their end, as inputs that have them at the end."""
    rows = split_batch(given)
    for row in rows:
        kept = row["encoder_attention_mask"]
        if int(kept.sum()) > length:
            raise too_long(int(kept.sum()), length)
        row["encoder_hidden_states"], row["encoder_attention_mask"] = at_the_end(
            row["encoder_hidden_states"], kept, length
        )
    return rows


NEXT = Family(
    name="lumina-next", title="Lumina-Next", transformer="LuminaNextDiT2DModel", pipelines=("LuminaPipeline",),
    inputs=next_inputs, constant=("image_rotary_emb",), mask="encoder_mask", timestep="1 - t / 1000",
    predicted="-output", guided_channels=3,
)  # fmt: skip
SECOND = Family(
    name="lumina2", title="Lumina2", transformer="Lumina2Transformer2DModel", pipelines=("Lumina2Pipeline",),
    inputs=second_inputs, prepare=Lumina2, rows=second_rows, timestep="1 - t / 1000", predicted="-output",
    guidance_norm="last axis",
)  # fmt: skip
