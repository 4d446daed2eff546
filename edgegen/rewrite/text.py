"""The text encoders in deployable form: ids in, conditioning in the transformer's layout out.

Shapes: B batch, Lw and Lb word and byte tokens, L = Lw + Lb, D encoder channels, T text channels.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgegen.model.text import PAD, TextBlock, TextEncoder, TextEncoders
from edgegen.rewrite.attention import MASKED
from edgegen.rewrite.batched import attend_in
from edgegen.rewrite.component import Form
from edgegen.rewrite.layout import ChannelsFirst, ChannelsLast, Layout, layer_norm, layout_of
from edgegen.rewrite.split import attend_heads


class DeployedTextBlock(nn.Module):
    """Pre-norm self-attention and GELU feed-forward of one encoder, in a layout."""

    def __init__(self, source: TextBlock, form: Form, layout: Layout):
        super().__init__()
        self.heads, self.layout, self.chunk = source.heads, layout, form.query_chunk
        self.attend = attend_in(form)
        self.norm1, self.norm2 = layer_norm(source.norm1, form), layer_norm(source.norm2, form)
        self.q, self.k, self.v, self.out, self.up, self.down = (
            layout.linear(getattr(source, name)) for name in ("q", "k", "v", "out", "up", "down")
        )

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        y = self.norm1(x)
        attend = self.attend_split if self.layout is ChannelsFirst else self.attend_batched
        x = x + self.out(attend(self.q(y), self.k(y), self.v(y), bias))
        return x + self.down(F.gelu(self.up(self.norm2(x))))

    def attend_split(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """(B, D, 1, L) under a bias (B, L, 1, 1)."""
        size = q.shape[1] // self.heads
        return attend_heads(q * size**-0.5, k.transpose(1, 3), v, size, self.chunk, bias)

    def attend_batched(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """(B*L, D) under a bias (B, 1, L)."""
        size = q.shape[1] // self.heads
        q, k, v = (t.reshape(len(bias), -1, t.shape[1]) for t in (q * size**-0.5, k, v))  # (B, L, D)
        return self.attend(q, k, v, size, bias).reshape(-1, q.shape[2])


class DeployedTextEncoder(nn.Module):
    """Ids (B, L) to features in a layout."""

    def __init__(self, source: TextEncoder, form: Form, layout: Layout):
        super().__init__()
        self.layout = layout
        self.embedding = source.embedding
        self.positions = nn.Parameter(source.positions.detach(), requires_grad=False)
        self.blocks = nn.ModuleList(DeployedTextBlock(cast(TextBlock, block), form, layout) for block in source.blocks)
        self.norm = layer_norm(source.norm, form)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embedding(ids) + self.positions[: ids.shape[1]]  # (B, L, D)
        bias = mask * -MASKED + MASKED  # (B, L)
        if self.layout is ChannelsFirst:
            x, bias = x.transpose(1, 2).unsqueeze(2), bias[:, :, None, None]  # (B, D, 1, L), (B, L, 1, 1)
        else:
            x, bias = x.reshape(-1, x.shape[2]), bias[:, None]  # (B*L, D), (B, 1, L)
        for block in self.blocks:
            x = block(x, bias)
        return self.norm(x)


class DeployedText(nn.Module):
    """word_ids (B, Lw) and byte_ids (B, Lb) of the encoders present, in that order -> text (B, T, 1, L),
    text_mask (B, L, 1, 1), pooled_text (B, T, 1, 1).
    """

    def __init__(self, source: TextEncoders, form: Form):
        super().__init__()
        layout = self.layout = layout_of(form.attention)
        self.encoders = nn.ModuleDict(
            {name: DeployedTextEncoder(cast(TextEncoder, e), form, layout) for name, e in source.encoders.items()}
        )
        self.projections = nn.ModuleDict(
            {name: layout.linear(cast(nn.Linear, p)) for name, p in source.projections.items()}
        )

    def forward(self, *ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        texts, masks = [], []
        for name, tokens in zip(self.encoders, ids, strict=True):
            mask = (tokens != PAD).to(torch.float32)  # (B, L)
            text = self.projections[name](self.encoders[name](tokens, mask))
            if self.layout is ChannelsLast:
                text = self.layout.unflatten(text, (1, tokens.shape[1]))  # (B, T, 1, L)
            texts.append(text * mask[:, None, None])
            masks.append(mask)
        text, mask = torch.cat(texts, 3), torch.cat(masks, 1)  # (B, T, 1, L), (B, L)
        # an upper limit too: without one Core ML's clip holds an infinity
        count = mask.sum(1, keepdim=True)[:, :, None, None].clamp(1.0, float(mask.shape[1]))  # (B, 1, 1, 1)
        return text, mask[:, :, None, None], text.sum(3, keepdim=True) / count
