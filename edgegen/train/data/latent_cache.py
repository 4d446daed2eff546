"""A dataset as a frozen encoder sees it: latents in aspect-ratio buckets, made once, and an index of their captions.

What is cached depends on each picture's bytes, the encoder's weights and the buckets alone, so that a run that was
killed goes on where it stopped and a changed dataset is encoded only where it changed.
Shapes: B pictures encoded at once, C latent channels, h x w latent grid of a bucket.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edgegen.errors import InputError
from edgegen.files import disk_errors
from edgegen.model.autoencoder import Encoder
from edgegen.model.pixels import to_tensor
from edgegen.train.data.buckets import Bucket, assign, cut
from edgegen.train.data.dataset import DataConfig, Dataset
from edgegen.train.data.dataset_picture import BadPicture
from edgegen.train.data.dataset_sample import Problems, Sample
from edgegen.train.data.tensor_cache import TensorCache, weights_digest

BATCH = 16  # pictures encoded at once
LATENT = "latent"
READING = "colours by ICC profile"  # how pictures are read: latents of another way are not taken


@dataclass(frozen=True)
class Picture:
    """One usable sample: its name, the digest its latent is found by, its bucket and captions."""

    key: str
    digest: str
    bucket: Bucket
    captions: tuple[str, ...]


@dataclass(frozen=True)
class LatentCache:
    """Where the latents of a dataset are kept, and how they are made."""

    folder: Path
    encoder: Encoder
    buckets: Sequence[Bucket]
    pixels_per_token: int
    config: DataConfig

    def maker(self) -> str:
        """A digest of everything but the pictures that latents depend on."""
        return weights_digest(
            self.encoder,
            list(self.buckets),
            self.pixels_per_token,
            self.config.max_enlarge,
            self.config.max_crop,
            READING,
        )

    def open(self) -> TensorCache:
        return TensorCache(self.folder / "latents", self.maker())

    def encode_(
        self, dataset: Dataset, problems: Problems, report: Callable[[int], None], rank: int = 0, world: int = 1
    ) -> list[Picture]:
        """Encodes what is not kept yet of every `world`-th sample; returns these samples, in the dataset's order."""
        store = self.open()
        waiting: dict[Bucket, list[tuple[str, np.ndarray]]] = {}
        found: list[tuple[Sample, str]] = []
        for number, sample in enumerate(dataset.samples(problems)):
            if number % world != rank:
                continue
            digest = sample.digest
            if digest in store or self._cut_(sample, digest, waiting, problems):
                found.append((Sample(sample.key, sample.captions, b""), digest))  # without the bytes
            for bucket in [b for b, rows in waiting.items() if len(rows) >= BATCH]:
                self._encode_(store, bucket, waiting.pop(bucket))
            report(number + 1)
        for bucket, rows in waiting.items():
            self._encode_(store, bucket, rows)
        store.flush()
        return [Picture(s.key, digest, bucket_of(store.groups[digest]), s.captions) for s, digest in found]

    def _cut_(
        self, sample: Sample, digest: str, waiting: dict[Bucket, list[tuple[str, np.ndarray]]], problems: Problems
    ) -> bool:
        """Puts a picture, cut to its bucket, among those waiting to be encoded; False when it cannot be used."""
        try:
            picture = sample.image()
            bucket = assign(picture.size, self.buckets)
            side = self.pixels_per_token
            pixels = cut(picture, (bucket[1] * side, bucket[0] * side), self.config.max_enlarge, self.config.max_crop)
        except BadPicture as error:
            problems.add(sample.key, "unusable picture", str(error))
            return False
        rows = waiting.setdefault(bucket, [])
        if all(digest != other for other, _ in rows):  # the same picture twice
            rows.append((digest, pixels))
        return True

    @torch.no_grad()
    def _encode_(self, store: TensorCache, bucket: Bucket, rows: list[tuple[str, np.ndarray]]) -> None:
        """Encodes pictures of one bucket and keeps the latents in fp16."""
        latents = self.encoder(to_tensor(np.stack([pixels for _, pixels in rows])))  # (B,C,h,w)
        if not torch.isfinite(latents).all():
            raise InputError("the encoder gives latents that are not finite.", "Use another with data.encoders.")
        for (digest, _), latent in zip(rows, latents.half(), strict=True):
            store.add(group_of(bucket), digest, {LATENT: latent})


def group_of(bucket: Bucket) -> str:
    return f"{bucket[0]}x{bucket[1]}"


def bucket_of(group: str) -> Bucket:
    rows, columns = group.split("x")
    return int(rows), int(columns)


def read_index(path: Path, stamp: str, store: TensorCache) -> list[Picture] | None:
    """The pictures an index lists, if it was made of the same files and all their latents are still kept."""
    try:
        with path.open(encoding="utf-8") as file:
            if json.loads(next(file))["stamp"] != stamp:
                return None
            pictures = [
                Picture(key, digest, (bucket[0], bucket[1]), tuple(captions))
                for key, digest, bucket, captions in map(json.loads, file)
            ]
    except (OSError, StopIteration, ValueError, KeyError, TypeError):
        return None
    return pictures if all(picture.digest in store.places for picture in pictures) else None


def write_index(path: Path, stamp: str, pictures: Sequence[Picture]) -> None:
    """One line for the stamp, one for each picture; readers see the old index or the whole new one."""
    temporary = path.with_name(f"{path.name}.tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps({"stamp": stamp, "pictures": len(pictures)}) + "\n")
            for picture in pictures:
                file.write(json.dumps([picture.key, picture.digest, picture.bucket, picture.captions]) + "\n")
        os.replace(temporary, path)


def index_path(cache: LatentCache, dataset: Dataset) -> Path:
    """The index of a dataset at a place, as an encoder sees it."""
    told = json.dumps([str(dataset.root.resolve()), dataset.kind, cache.maker()])
    return cache.folder / f"index-{hashlib.sha256(told.encode()).hexdigest()[:16]}.jsonl"


def split(pictures: Sequence[Picture], share: float, most: int) -> tuple[list[Picture], list[Picture]]:
    """Those to train on and those to watch, by the digests alone: copies of a picture are on one side.

    InputError when there are fewer than two different pictures, which a split needs.
    """
    digests = sorted(
        {picture.digest for picture in pictures},
        key=lambda digest: hashlib.sha256(f"validation {digest}".encode()).hexdigest(),
    )
    if len(digests) < 2:
        what = "one usable picture" if digests else "no usable picture"
        raise InputError(
            f"the dataset has {what}; at least 2 different ones are needed, one of them to validate on.",
            "Add pictures with captions, or see above why others were left out.",
        )
    watched = set(digests[: max(1, min(most, round(share * len(digests)), len(digests) - 1))])
    return ([p for p in pictures if p.digest not in watched], [p for p in pictures if p.digest in watched])
