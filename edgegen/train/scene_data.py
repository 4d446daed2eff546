"""Scenes as the transformer trains on them: a pool of latents, captions as token ids, text encoded batch by batch.

Shapes: N scenes, K captions of a scene, C latent channels, h x w latent grid, L text tokens, T text width, B batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from edgegen.model.autoencoder import Encoder
from edgegen.model.text import TextEncoders, Tokenizers, masked_mean
from edgegen.train.data import to_tensor
from edgegen.train.flow import logit_normal
from edgegen.train.loop import CaptionedLatents, ElasticTraining
from edgegen.train.run_state import write_tensors
from edgegen.train.scene_pictures import Sprites
from edgegen.train.scenes import SceneSource

CHUNK = 64  # scenes encoded at once


@dataclass(frozen=True)
class Pool:
    """Latents (N,C,h,w) float16 of scenes 0 to N - 1 of a source, and each one's captions."""

    latents: Tensor
    captions: list[tuple[str, ...]]


def scene_pool(source: SceneSource, count: int, sprites: Sprites, encoder: Encoder, cache: Path,
               report: Callable[[int], None] = lambda done: None) -> Pool:
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
    def build(cls, pool: Pool, singles: CaptionedLatents, single_share: float, tokenizers: Tokenizers,
              encoders: TextEncoders, bfloat16: bool = False) -> SceneLatents:
        ids = tokenizers.encode([caption for captions in pool.captions for caption in captions])
        word, byte = ids.tensors()
        return cls(pool, singles, single_share, word, byte, encoders, bfloat16)

    @property
    def latents(self) -> Tensor:
        """All latents of the pool (N,C,h,w)."""
        return self.pool.latents

    def batch(self, training: ElasticTraining, step: int, rank: int, world: int) -> tuple[Tensor, ...]:
        """x0, noise, t, text, mask, pooled of one step: rows of a batch that depends on (seed, step) alone."""
        g = torch.Generator().manual_seed(training.seed * 1_000_003 + step)
        count = training.batch
        of_singles = round(self.single_share * count)
        x0, text, mask = self.scenes(count - of_singles, g)
        if of_singles:
            alone = self._single_rows(of_singles, g)
            x0, text, mask = (torch.cat(pair) for pair in zip((x0, text, mask), alone, strict=True))
        empty = torch.rand(count, generator=g) < training.drop_caption
        text[empty], mask[empty] = self.singles.text[0].float(), self.singles.mask[0].float()
        mask = self.singles.drop_encoders(mask, training.drop_encoder, g)  # (B,L)
        used = mask.any(0)  # columns that all rows have masked cost time and say nothing
        text, mask = (text * mask[..., None])[:, used], mask[:, used]  # (B,L,T), (B,L)
        noise = torch.randn(x0.shape, generator=g)
        t = logit_normal(count, g, training.shift)[torch.randperm(count, generator=g)]
        rows = slice(rank * count // world, (rank + 1) * count // world)
        return tuple(part[rows] for part in (x0, noise, t, text, mask, masked_mean(text, mask)))

    def scenes(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (B,C,h,w), text (B,L,T) and mask (B,L) of random scenes, each with one of its captions."""
        per_scene = len(self.word_ids) // len(self.pool.latents)
        scenes = torch.randint(len(self.pool.latents), (count,), generator=generator)
        said = scenes * per_scene + torch.randint(per_scene, (count,), generator=generator)
        text, mask = self.encode(said)
        return self.pool.latents[scenes].float(), text, mask

    @torch.no_grad()
    def encode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Text (B,L,T) and mask (B,L) of captions by row."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            text, mask, _ = self.encoders(self.word_ids[rows], self.byte_ids[rows])
        return text.float(), mask.float()

    def _single_rows(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        data = self.singles
        pictures = torch.randint(len(data.latents), (count,), generator=generator).tolist()
        draws = torch.rand(count, generator=generator).tolist()
        rows = [data.captions[m][int(d * len(data.captions[m]))] for m, d in zip(pictures, draws, strict=True)]
        return data.latents[pictures], data.text[rows].float(), data.mask[rows].float()


def scene_validation(pool: Pool, tokenizers: Tokenizers, encoders: TextEncoders) -> CaptionedLatents:
    """The pool as a small fixed set with its first captions cached, for validation losses."""
    from edgegen.train.data import cache_text

    text, mask, _ = cache_text([captions[0] for captions in pool.captions], tokenizers, encoders)
    words = tokenizers.word_length if tokenizers.word is not None else 0
    return CaptionedLatents(pool.latents.float(), [[row] for row in range(len(text))], text, mask, words)
