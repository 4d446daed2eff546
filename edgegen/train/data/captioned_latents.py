"""Latents with the captions they may carry, whose batches depend on (seed, step) alone.

Shapes: M pictures, K captions, C latent channels, h x w latent grid, L text tokens, T text channels, B batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgegen.model.flow import logit_normal
from edgegen.model.text import masked_mean

if TYPE_CHECKING:
    from edgegen.train.stages.loop import ElasticTraining


@dataclass(frozen=True)
class CaptionedLatents:
    """Cached training data: each picture's latent and the captions it may carry, as cached text tokens.

    Caption 0 is the empty prompt. `word_tokens` of the L tokens belong to the first encoder.
    """

    latents: Tensor  # (M, C, h, w)
    captions: list[list[int]]  # per picture, indices into the K captions
    text: Tensor  # (K, L, T)
    mask: Tensor  # (K, L)
    word_tokens: int

    def batch(self, training: ElasticTraining, step: int, rank: int, world: int) -> tuple[Tensor, ...]:
        """x0, noise, t, text, mask, pooled of one step: a process's rows of a batch that depends on (seed, step)."""
        g = torch.Generator().manual_seed((training.seed * 1_000_003 + step) * 4099)
        count = training.batch
        pictures = torch.randint(len(self.latents), (count,), generator=g)
        draws = torch.rand(count, generator=g).tolist()
        captions = [self.captions[m] for m in pictures.tolist()]
        picked = [words[int(draw * len(words))] for words, draw in zip(captions, draws, strict=True)]
        dropped = torch.rand(count, generator=g) < training.drop_caption
        captioned = torch.where(dropped, 0, torch.tensor(picked))
        mask = self.drop_encoders(self.mask[captioned].float(), training.drop_encoder, g)  # (B, L)
        noise = torch.randn(count, *self.latents.shape[1:], generator=g)
        t = logit_normal(count, g, training.shift)
        rows = slice(rank * count // world, (rank + 1) * count // world)
        mask = mask[rows]
        text = self.text[captioned[rows]].float() * mask[..., None]  # (B, L, T)
        return self.latents[pictures[rows]], noise[rows], t[rows], text, mask, masked_mean(text, mask)

    def groups(self) -> tuple[CaptionedLatents]:
        """All latents have one shape."""
        return (self,)

    def drop_encoders(self, mask: Tensor, share: float, generator: torch.Generator) -> Tensor:
        """Masks all tokens of one encoder in a share of the rows (B, L), each encoder as often, never both."""
        if not 0 < self.word_tokens < mask.shape[1]:
            return mask
        draw = torch.rand(len(mask), 1, generator=generator)
        is_word = (torch.arange(mask.shape[1]) < self.word_tokens)[None]
        drop = (draw < share) & is_word | (draw > 1 - share) & ~is_word
        return mask * ~drop
