"""Batches of cached latents, all rows of a batch from one aspect-ratio bucket, and the text that goes with them.

Shapes: B batch, K captions, C latent channels, h x w latent grid of a bucket, L text tokens, T text width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from edgegen.model.flow import logit_normal
from edgegen.model.text import TextEncoders, Tokenizers, masked_mean
from edgegen.train.data.buckets import Bucket
from edgegen.train.data.captioned_latents import CaptionedLatents
from edgegen.train.data.encoded import cache_text
from edgegen.train.data.latent_cache import LATENT, Picture
from edgegen.train.data.tensor_cache import TensorCache

if TYPE_CHECKING:
    from edgegen.train.stages.loop import ElasticTraining

CHUNK = 64  # captions encoded at once


class Text(Protocol):
    """The tokens of K captions, of which the first is empty."""

    word_tokens: int  # of the L tokens, those of the first encoder

    def rows(self, captions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Text (B,L,T) and mask (B,L), float32."""


@dataclass(frozen=True)
class CachedText:
    """Text encoded once, in memory."""

    text: Tensor  # (K,L,T)
    mask: Tensor  # (K,L)
    word_tokens: int

    def rows(self, captions: Sequence[int]) -> tuple[Tensor, Tensor]:
        return self.text[captions].float(), self.mask[captions].float()


@dataclass(frozen=True)
class LiveText:
    """Text encoded when a batch asks for it: no cache however many captions there are."""

    captions: Sequence[str]
    tokenizers: Tokenizers
    encoders: TextEncoders
    word_tokens: int

    @torch.no_grad()
    def rows(self, captions: Sequence[int]) -> tuple[Tensor, Tensor]:
        text, mask, _ = self.encoders(*self.tokenizers.encode([self.captions[k] for k in captions]).tensors())
        return text.float(), mask.float()


def caption_digest(caption: str) -> str:
    return hashlib.sha256(caption.encode()).hexdigest()


def encode_text(
    captions: Sequence[str],
    tokenizers: Tokenizers,
    encoders: TextEncoders,
    store: TensorCache,
    limit_bytes: float,
    report: Callable[[int], None] = lambda done: None,
) -> Text:
    """The text of captions, the first of them empty: kept in `store`, or encoded live where it exceeds the limit."""
    words = tokenizers.word_length if tokenizers.word is not None else 0
    text, mask, _ = cache_text([""], tokenizers, encoders)  # (1,L,T), (1,L)
    if (text.nbytes + mask.nbytes) * len(captions) > limit_bytes:
        return LiveText(captions, tokenizers, encoders, words)
    digests = [caption_digest(caption) for caption in captions]
    missing = [(digest, caption) for digest, caption in zip(digests, captions, strict=True) if digest not in store]
    for start in range(0, len(missing), CHUNK):
        part = missing[start : start + CHUNK]
        text, mask, _ = cache_text([caption for _, caption in part], tokenizers, encoders)
        for row, (digest, _) in enumerate(part):
            store.add("text", digest, {"text": text[row], "mask": mask[row]})
        report(start + len(part))
    store.flush()
    rows = store.rows(digests)
    return CachedText(rows["text"], rows["mask"], words)


@dataclass(frozen=True)
class BucketedLatents:
    """Training data whose latents stay on the disk; a batch is a function of (seed, step) over all processes."""

    store: TensorCache
    pictures: Sequence[Picture]
    captions: Sequence[Sequence[int]]  # of each picture, indices into the text; 0 is the empty prompt
    text: Text

    @cached_property
    def buckets(self) -> dict[Bucket, list[int]]:
        """The pictures of each bucket."""
        members: dict[Bucket, list[int]] = {}
        for row, picture in enumerate(self.pictures):
            members.setdefault(picture.bucket, []).append(row)
        return dict(sorted(members.items()))

    def latents(self, rows: Sequence[int]) -> Tensor:
        """Latents (B,C,h,w) float32 of pictures of one bucket."""
        return self.store.rows([self.pictures[row].digest for row in rows])[LATENT].float()

    def batch(self, training: ElasticTraining, step: int, rank: int, world: int) -> tuple[Tensor, ...]:
        """One process's rows of x0, noise, t, text, mask, pooled of a step; a bucket is drawn by its pictures."""
        g = torch.Generator().manual_seed((training.seed * 1_000_003 + step) * 4099 + 1)
        count = training.batch
        first = int(torch.randint(len(self.pictures), (1,), generator=g))
        members = self.buckets[self.pictures[first].bucket]
        picked = [members[i] for i in torch.randint(len(members), (count,), generator=g).tolist()]
        draws = torch.rand(count, generator=g).tolist()
        said = [self.captions[m][int(d * len(self.captions[m]))] for m, d in zip(picked, draws, strict=True)]
        dropped = (torch.rand(count, generator=g) < training.drop_caption).tolist()
        said = [0 if drop else caption for drop, caption in zip(dropped, said, strict=True)]
        encoders = torch.rand(count, 1, generator=g)
        one = self.latents(picked[:1])  # the shape of the bucket's latents
        noise = torch.randn(count, *one.shape[1:], generator=g)
        t = logit_normal(count, g, training.shift)
        rows = slice(rank * count // world, (rank + 1) * count // world)
        text, mask = self.text.rows(said[rows])  # (B,L,T), (B,L)
        mask = drop_encoders(mask, encoders[rows], training.drop_encoder, self.text.word_tokens)
        text = text * mask[..., None]
        return self.latents(picked[rows]), noise[rows], t[rows], text, mask, masked_mean(text, mask)

    def groups(self) -> Iterator[CaptionedLatents]:
        """The pictures of each bucket in memory, with their first captions: for a validation loss."""
        for members in self.buckets.values():
            text, mask = self.text.rows([self.captions[row][0] for row in members])
            yield CaptionedLatents(
                self.latents(members), [[i] for i in range(len(members))], text, mask, self.text.word_tokens
            )


def drop_encoders(mask: Tensor, draw: Tensor, share: float, word_tokens: int) -> Tensor:
    """Masks (B,L) all tokens of one encoder where a draw (B,1) in [0,1) says so, each as often, never both."""
    if not 0 < word_tokens < mask.shape[1]:
        return mask
    is_word = (torch.arange(mask.shape[1]) < word_tokens)[None]
    return mask * ~((draw < share) & is_word | (draw > 1 - share) & ~is_word)
