"""Rendered emoji with captions and splits; M pictures."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgegen.emoji.assets import emoji_names, fetch_emoji, render_emoji
from edgegen.emoji.captions import STYLES, Concept, assign_splits, captions, common_concepts, unit_hash
from edgegen.errors import InputError


@dataclass(frozen=True)
class Record:
    """One picture: `split` is 'train', 'unseen_concept' or 'unseen_style'; the first caption is the plainest."""

    key: str
    concept: str
    style: str
    split: str
    captions: tuple[str, ...]


@dataclass(frozen=True)
class EmojiData:
    """Pictures (M,128,128,3) uint8 and one record for each."""

    images: np.ndarray
    records: list[Record]

    @classmethod
    def load(cls, data_dir: Path, tarballs: Path | None = None, seed: int = 0) -> "EmojiData":
        """The common concepts in both styles; fetches and renders what is not there yet."""
        rendered = load_rendered(data_dir, tarballs)
        keys = {name: key for key, name in emoji_names(data_dir).items()}
        return cls.build(rendered, keys, common_concepts(), seed)

    @classmethod
    def build(cls, rendered: "Rendered", keys: dict[str, str], concepts: list[Concept], seed: int = 0) -> "EmojiData":
        """Pick the pictures of `concepts` out of `rendered`, given the key of each Unicode name."""
        rows = {pair: row for row, pair in enumerate(zip(rendered.keys, rendered.styles, strict=True))}
        splits = assign_splits(concepts, seed=seed)
        picked, records = [], []
        for concept in concepts:
            for style in STYLES:
                key = keys.get(concept.unicode_name, "")
                if (key, style) not in rows:
                    raise InputError(
                        f"Concept '{concept.unicode_name}' has no {style} picture.", "Remove it from the concept list."
                    )
                picked.append(rows[key, style])
                words = tuple(captions(concept, style))
                records.append(Record(key, concept.name, style, splits[concept.name, style], words))
        return cls(rendered.images[picked], records)

    def subset(self, split: str) -> "EmojiData":
        """The pictures and records of one split."""
        rows = [row for row, record in enumerate(self.records) if record.split == split]
        return EmojiData(self.images[rows], [self.records[row] for row in rows])


@dataclass(frozen=True)
class Rendered:
    """Every rendered picture: images (M,128,128,3) uint8, keys and styles of length M."""

    images: np.ndarray
    keys: list[str]
    styles: list[str]


def load_rendered(data_dir: Path, tarballs: Path | None = None) -> Rendered:
    """All pictures in all styles ('3d', 'flat', 'noto'); fetches and renders what is not there yet."""
    with np.load(render_emoji(fetch_emoji(data_dir, tarballs))) as arrays:
        return Rendered(arrays["images"], arrays["keys"].tolist(), arrays["styles"].tolist())


def autoencoder_split(keys: list[str], held_out: float = 0.03, seed: int = 0) -> np.ndarray:
    """Which pictures the autoencoder trains on, bool (M,): all styles of a key fall on the same side."""
    return np.array([unit_hash(key, seed) >= held_out for key in keys])
