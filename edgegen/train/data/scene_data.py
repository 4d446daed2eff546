"""Scenes as the transformer trains on them: a pool of latents, captions as token ids, text encoded batch by batch.

Shapes: N scenes, K captions of a scene, C latent channels, h x w latent grid, L text tokens, T text width, B batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from edgegen.emoji.scene_pictures import Sprites
from edgegen.emoji.scenes import SceneSource
from edgegen.model.autoencoder import Encoder
from edgegen.model.flow import logit_normal
from edgegen.model.pixels import to_tensor
from edgegen.model.states import write_tensors
from edgegen.model.text import PAD, TextEncoders, Tokenizers, masked_mean
from edgegen.train.data.captioned_latents import CaptionedLatents

if TYPE_CHECKING:
    from edgegen.train.stages.loop import ElasticTraining

CHUNK = 64  # scenes encoded at once


@dataclass(frozen=True)
class Pool:
    """Latents (N,C,h,w) float16 of scenes 0 to N - 1 of a source, and each one's captions."""

    latents: Tensor
    captions: list[tuple[str, ...]]


def scene_pool(
    source: SceneSource,
    count: int,
    sprites: Sprites,
    encoder: Encoder,
    cache: Path,
    report: Callable[[int], None] = lambda done: None,
) -> Pool:
    """The pool of a source's first `count` scenes, read from `cache` when it holds just those."""
    scenes = [source[index] for index in range(count)]
    key = pool_key(source, count, encoder)
    if cache.is_file():
        with safe_open(cache, "pt") as file:
            if (file.metadata() or {}).get("key") == key:
                return Pool(file.get_tensor("latents"), [scene.captions for scene in scenes])
    parts = []
    for start in range(0, count, CHUNK):
        pictures = np.stack([sprites.render(scene) for scene in scenes[start : start + CHUNK]])  # (CHUNK,H,W,3)
        with torch.no_grad():
            parts.append(encoder(to_tensor(pictures)).half())
        report(min(start + CHUNK, count))
    latents = torch.cat(parts)
    write_tensors(cache, {"latents": latents}, {"key": key})
    return Pool(latents, [scene.captions for scene in scenes])


def pool_key(source: SceneSource, count: int, encoder: Encoder) -> str:
    """What a cached pool depends on: the scenes and the encoder's weights."""
    weights = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in encoder.parameters())).hexdigest()
    first = source[0]
    told = [source.split, source.seed, source.captions, count, repr(first), weights]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@dataclass(frozen=True)
class SceneLatents:
    """Training batches of scenes and, in a share of the rows, of single pictures filling the frame.

    The text of scenes is encoded when a batch is made: cached, it would take 50 KB a caption.
    """

    pool: Pool
    singles: CaptionedLatents
    single_share: float
    word_ids: Tensor  # (N * K, Lw) int32, row n * K + k
    byte_ids: Tensor  # (N * K, Lb) int32
    encoders: TextEncoders
    bfloat16: bool = False  # how the text encoders run

    @classmethod
    def build(
        cls,
        pool: Pool,
        singles: CaptionedLatents,
        single_share: float,
        tokenizers: Tokenizers,
        encoders: TextEncoders,
        bfloat16: bool = False,
    ) -> SceneLatents:
        ids = tokenizers.encode([caption for captions in pool.captions for caption in captions])
        word, byte = ids.tensors()
        return cls(pool, singles, single_share, word, byte, encoders, bfloat16)

    @property
    def latents(self) -> Tensor:
        """All latents of the pool (N,C,h,w)."""
        return self.pool.latents

    def batch(self, training: ElasticTraining, step: int, rank: int, world: int) -> tuple[Tensor, ...]:
        """x0, noise, t, text, mask, pooled of one step: rows of a batch that depends on (seed, step) alone.

        A process takes every `world`-th row, for the single pictures are at the end and cost less; it encodes no text
        but its own.
        """
        g = torch.Generator().manual_seed(training.seed * 1_000_003 + step)
        count = training.batch
        of_singles = round(self.single_share * count)
        scenes, said = self._drawn_scenes(count - of_singles, g)
        pictures, captions = self._drawn_singles(of_singles, g)
        mask = torch.cat([self.mask_of(said), self.singles.mask[captions].float()])  # (B,L)
        empty = torch.rand(count, generator=g) < training.drop_caption
        mask[empty] = self.singles.mask[0].float()
        mask = self.singles.drop_encoders(mask, training.drop_encoder, g)
        used = mask.any(0)  # columns that all rows have masked cost time and say nothing
        noise = torch.randn(count, *self.pool.latents.shape[1:], generator=g)
        t = logit_normal(count, g, training.shift)[torch.randperm(count, generator=g)]
        own = torch.arange(rank, count, world)
        alone = own >= len(said)
        of_scenes, of_pictures = own[~alone], own[alone] - len(said)
        x0 = torch.cat([self.pool.latents[scenes[of_scenes]].float(), self.singles.latents[pictures[of_pictures]]])
        text = torch.cat([self.encode(said[of_scenes]), self.singles.text[captions[of_pictures]].float()])
        text[empty[own]] = self.singles.text[0].float()
        mask = mask[own]
        text, mask = (text * mask[..., None])[:, used], mask[:, used]  # (B,L,T), (B,L)
        return x0, noise[own], t[own], text, mask, masked_mean(text, mask)

    def _drawn_scenes(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random scenes (B,) and, for each, the row (B,) of one of its captions."""
        per_scene = len(self.word_ids) // len(self.pool.latents)
        scenes = torch.randint(len(self.pool.latents), (count,), generator=generator)
        return scenes, scenes * per_scene + torch.randint(per_scene, (count,), generator=generator)

    def _drawn_singles(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random single pictures (B,) and, for each, the row (B,) of one of its captions."""
        data = self.singles
        pictures = torch.randint(len(data.latents), (count,), generator=generator)
        draws = torch.rand(count, generator=generator).tolist()
        rows = [data.captions[m][int(d * len(data.captions[m]))] for m, d in zip(pictures.tolist(), draws, strict=True)]
        return pictures, torch.tensor(rows, dtype=torch.long)

    def mask_of(self, rows: Tensor) -> Tensor:
        """Mask (B,L) of captions by row, words first."""
        return (torch.cat([self.word_ids[rows], self.byte_ids[rows]], 1) != PAD).float()

    @torch.no_grad()
    def encode(self, rows: Tensor) -> Tensor:
        """Text (B,L,T) of captions by row."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            text, _, _ = self.encoders(self.word_ids[rows], self.byte_ids[rows])
        return text.float()


def scene_validation(pool: Pool, tokenizers: Tokenizers, encoders: TextEncoders) -> CaptionedLatents:
    """The pool as a small fixed set with its first captions cached, for validation losses."""
    from edgegen.train.data.encoded import cache_text

    text, mask, _ = cache_text([captions[0] for captions in pool.captions], tokenizers, encoders)
    words = tokenizers.word_length if tokenizers.word is not None else 0
    return CaptionedLatents(pool.latents.float(), [[row] for row in range(len(text))], text, mask, words)
