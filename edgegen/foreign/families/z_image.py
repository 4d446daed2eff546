"""Z-Image: lists of pictures and captions; picture tokens come after the caption, so that its length is fixed."""

from __future__ import annotations

from typing import Any

import torch

from edgegen.foreign.families.family import Config, Family, Request


def inputs(config: Config, ask: Request) -> dict[str, Any]:
    return {
        "x": [ask.noise(config["in_channels"], 1, ask.height, ask.width)],
        "t": torch.tensor([1 - ask.sigma + 0.01]),
        "cap_feats": [ask.noise(ask.tokens, config["cap_feat_dim"], offset=1)],
    }


FAMILY = Family(
    name="z-image", title="Z-Image", transformer="ZImageTransformer2DModel", pipelines=("ZImagePipeline",),
    inputs=inputs, text_length=256,
)  # fmt: skip
