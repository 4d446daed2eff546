"""Z-Image: lists of pictures and captions; picture tokens come after the caption, in positions and not in order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.foreign.adopt import adopt_
from edgegen.foreign.families.family import Config, Family, Request, too_long
from edgegen.foreign.families.masking import at_the_end, masked, replaced

MULTIPLE = 32  # tokens of a caption, and of a picture, are filled up to a multiple by tokens that take part


def whole(count: int) -> int:
    return -(-count // MULTIPLE) * MULTIPLE


class ZImage(nn.Module):
    """Z-Image for one picture, with its caption at the end of a text of one length."""

    def __init__(self, network: Any):
        super().__init__()
        self.__dict__["network"] = network  # not registered: names stay the checkpoint's
        adopt_(self, network)

    def forward(self, x: Tensor, t: Tensor, cap_feats: Tensor, cap_kept: Tensor, cap_filling: Tensor) -> Tensor:
        """x (C, 1, h, w), t (1,), cap_feats (1, L, D); cap_kept (1, L) is true for what takes part, the caption and
        its filling; cap_filling (1, L) for the filling alone.
        """
        net = self.network
        kept, filling = cap_kept.bool(), cap_filling.bool()[0, :, None]
        both = torch.cat([torch.ones(1, whole(picture_tokens(x)), dtype=torch.bool), kept], 1)  # (1, N + L)
        embedded = replaced(net.cap_embedder, lambda made: torch.where(filling, net.cap_pad_token, made))
        with masked(net.context_refiner, kept), masked(net.layers, both), embedded:
            return net([x], t, [cap_feats[0]], return_dict=False)[0][0]


def picture_tokens(x: Tensor) -> int:
    return x[0, 0].numel() // 4


def inputs(config: Config, ask: Request) -> dict[str, Any]:
    x, length = ask.noise(config["in_channels"], 1, ask.height, ask.width), whole(ask.tokens)
    text = ask.noise(1, length, config["cap_feat_dim"], offset=1)
    least = length if picture_tokens(x) % MULTIPLE else 1
    count = max(length - 1 - 37 * ask.seed % length, least - MULTIPLE + 1, 1)
    return {"x": x, "t": torch.tensor([1 - ask.sigma + 0.01]), **caption(text[:, :count], length)}


def caption(text: Tensor, length: int) -> dict[str, Tensor]:
    """A caption's features (1, S, D) as inputs of a network for `length`."""
    count = text.shape[1]
    filled = nn.functional.pad(text, (0, 0, 0, whole(count) - count))
    feats, kept = at_the_end(filled, torch.ones(1, whole(count)), length)
    filling = torch.arange(length) >= length - whole(count) + count
    return {"cap_feats": feats, "cap_kept": kept, "cap_filling": filling[None]}


def rows(given: dict[str, Any], length: int) -> list[dict[str, Any]]:
    """The inputs of each picture."""
    made = []
    for i, (x, text) in enumerate(zip(given["x"], given["cap_feats"], strict=True)):
        if whole(len(text)) > length:
            raise too_long(len(text), length)
        count = picture_tokens(x)
        if count % MULTIPLE and whole(len(text)) < length:  # its filling has a position of its own
            raise InputError(
                f"a picture of {count} tokens, which is no multiple of {MULTIPLE}, needs a text of {length}.",
                "Export with --tokens as long as the prompt, or another --resolution.",
            )
        made.append({"x": x, "t": given["t"][i : i + 1], **caption(text[None], length)})
    return made


FAMILY = Family(
    name="z-image", title="Z-Image", transformer="ZImageTransformer2DModel", pipelines=("ZImagePipeline",),
    inputs=inputs, text_length=256, text="cap_feats", prepare=ZImage, rows=rows, listed=True,
    timestep="1 - t / 1000", predicted="-output", guided="with_prompt + scale * (with_prompt - without)",
)  # fmt: skip
