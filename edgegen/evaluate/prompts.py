"""What is drawn and judged: prompts with real pictures of the same, seen in training or not.

Shapes: N prompts, H = W = 128 pixels.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgegen.emoji.captions import with_article
from edgegen.emoji.data import EmojiData
from edgegen.emoji.scene_pictures import Sprites
from edgegen.emoji.scenes import Scene, SceneSource
from edgegen.errors import InputError, unknown
from edgegen.prompts import read_prompts

SCENES = {"seen": "train", "unseen": "concepts", "combinations": "combinations"}  # split of the scenes
EMOJI = {"emoji": ("train",), "emoji-unseen": ("unseen_style", "unseen_concept")}  # single pictures filling the frame
SETS = (*SCENES, *EMOJI)
SEED = 7_000  # of evaluation scenes: training's pools begin at low seeds
OTHER_SEED = 7_001  # other real scenes of the same split, to say how far apart two real sets are


@dataclass(frozen=True)
class PromptSet:
    """Prompts; of the sets of this project, real pictures of the same, and others of their kind to compare them with.

    `scenes` are given where the pictures can be scored for composition.
    """

    name: str
    prompts: tuple[str, ...]
    real: np.ndarray | None = None  # (N,H,W,3) uint8
    others: np.ndarray | None = None  # (N,H,W,3) uint8
    scenes: tuple[Scene, ...] = ()

    @property
    def count(self) -> int:
        return len(self.prompts)

    def kinds(self) -> dict[str, int]:
        """How many scenes there are of each kind."""
        return dict(Counter(scene.kind for scene in self.scenes))


def prompt_set(name: str, count: int, data: Path, seed: int = SEED) -> PromptSet:
    """The first `count` prompts of a set by name, or all those of a text file, which has no real pictures."""
    if name in SETS and count < 2:
        raise InputError(f"count {count} is below 2.", "Measures compare sets: give a hundred or more.")
    if name in SCENES:
        return scene_set(name, count, data, seed)
    if name in EMOJI:
        return emoji_set(name, count, data)
    if not Path(name).is_file():
        if Path(name).suffix:
            raise InputError(f"prompts file {name} does not exist.", f"Give a file, or one of {', '.join(SETS)}.")
        raise unknown("prompts", name, SETS)
    return PromptSet(Path(name).name, tuple(read_prompts(Path(name))[:count]))


def check_data(data: Path) -> None:
    """Refuses a folder that `edgegen train fetch` has not filled, rather than fetch unasked."""
    if not (data / "rendered.npz").is_file():
        raise InputError(f"data folder {data} has no rendered.npz.", f"Fetch it: edgegen train fetch --data {data}")


def scene_set(name: str, count: int, data: Path, seed: int) -> PromptSet:
    """Scenes of a split, each with its first caption and the picture that belongs to it."""
    check_data(data)
    sprites = Sprites.load(data)
    scenes = scenes_of(SCENES[name], count, seed)
    others = scenes_of(SCENES[name], count, seed + OTHER_SEED - SEED)
    return PromptSet(
        name,
        tuple(scene.captions[0] for scene in scenes),
        pictures_of(sprites, scenes),
        pictures_of(sprites, others),
        tuple(scenes),
    )


def scenes_of(split: str, count: int, seed: int) -> list[Scene]:
    """The first scenes of a source that has one caption each."""
    source = SceneSource(split, seed, captions=1)
    return [source[index] for index in range(count)]


def pictures_of(sprites: Sprites, scenes: list[Scene]) -> np.ndarray:
    """The real pictures (N,H,W,3) of scenes."""
    return np.stack([sprites.render(scene) for scene in scenes])


def emoji_set(name: str, count: int, data: Path) -> PromptSet:
    """Single emoji of training's split or the held-out ones, said with their style, in an order that mixes them."""
    check_data(data)
    every = EmojiData.load(data)
    rows = [row for row, record in enumerate(every.records) if record.split in EMOJI[name]]
    rows = [rows[i] for i in np.random.Generator(np.random.PCG64(0)).permutation(len(rows))[:count]]
    prompts = [f"a {every.records[row].style} emoji of {with_article(every.records[row].concept)}" for row in rows]
    return PromptSet(name, tuple(prompts), every.images[rows])
