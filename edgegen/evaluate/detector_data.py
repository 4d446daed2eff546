"""What the detector learns from: pictures of one to four things, known and unknown, and the maps they should give.

Shapes: B pictures, H = W = 128 pixels, g = H / 8 cells a side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgegen.emoji.assets import SIZE, cut_out, emoji_names, emoji_sources
from edgegen.emoji.captions import STYLES, common_concepts, unit_hash
from edgegen.emoji.scene_pictures import Sprites, recolour
from edgegen.emoji.scenes import COLOURS, Scene, Thing, scene_concepts
from edgegen.evaluate.detector import CELL, OTHER, PLAIN, DetectorConfig
from edgegen.model.pixels import to_tensor

LARGEST = {1: 0.9, 2: 0.5, 3: 0.42, 4: 0.36}  # side of a thing by how many there are, as a share of the picture's
SMALLEST = 0.28
OTHER_SHARE = 0.15  # of the things: parts of two joined, and emoji that no scene has
STRANGERS = 300  # emoji that no scene has
CHIMERAS = 400


def detector_config() -> DetectorConfig:
    """The classes and colours of the scenes."""
    return DetectorConfig((*scene_concepts(), OTHER), (PLAIN, *COLOURS))


@dataclass(frozen=True)
class Targets:
    """Maps of a batch: heat (B,g,g) in [0,1], owner mask (B,g,g), box (B,3,g,g), class and colour (B,g,g) int64."""

    heat: Tensor
    owned: Tensor
    box: Tensor
    classes: Tensor
    colours: Tensor


class Crowds:
    """Batches of pictures and targets, each a function of (seed, step); every thing and colour is alike frequent."""

    def __init__(self, sprites: Sprites, strangers: list[np.ndarray], seed: int = 0):
        self.seed, self.config = seed, detector_config()
        known = {key: picture for key, picture in sprites.pictures.items() if key[0] in self.config.classes}
        shaded = {
            (f"{colour} {name}", style): recolour(picture, COLOURS[colour])  # once, not in every picture
            for (name, style), picture in known.items()
            for colour in COLOURS
        }
        unknown = [*strangers, *chimeras(list(known.values()), CHIMERAS)]
        self.strangers = len(unknown)
        others = {(f"{OTHER} {i}", STYLES[0]): picture for i, picture in enumerate(unknown)}
        self.known = sorted(known)
        self.sprites = Sprites(known | shaded | others)

    def batch(self, count: int, step: int) -> tuple[Tensor, Targets]:
        """Pictures (B,3,H,W) in [0,1], some of them blurred and noisy as drawn pictures are, and their targets."""
        rng = np.random.Generator(np.random.PCG64([self.seed, step]))
        crowds = [self._crowd(rng) for _ in range(count)]
        pictures = to_tensor(np.stack([self.sprites.render(scene) for scene, _ in crowds]))
        return worn(pictures, torch.Generator().manual_seed(self.seed * 1_000_003 + step)), targets(
            [labels for _, labels in crowds], SIZE // CELL
        )

    def _crowd(self, rng: np.random.Generator) -> tuple[Scene, list[tuple[int, int, Thing]]]:
        """A scene, and of each thing its class, colour and place."""
        count = int(rng.choice(4, p=(0.3, 0.4, 0.2, 0.1))) + 1
        places = scatter(rng, count)
        same = rng.random() < 0.3  # counting needs things alike beside each other
        first, things, labels = self._pick(rng), [], []
        for x, y, size in places:
            name, style, label, colour = first if same else self._pick(rng)
            things.append(Thing(name, style, None, x, y, size))
            labels.append((label, colour, things[-1]))
        background = "white" if rng.random() < 0.5 else str(rng.choice(list(COLOURS)))
        return Scene("crowd", tuple(things), background, float(rng.random()), None, ()), labels

    def _pick(self, rng: np.random.Generator) -> tuple[str, str, int, int]:
        """Sprite name, style, class and colour of a random thing."""
        if rng.random() < OTHER_SHARE and self.strangers:
            return f"{OTHER} {rng.integers(self.strangers)}", STYLES[0], len(self.config.classes) - 1, 0
        name, style = self.known[rng.integers(len(self.known))]
        label = self.config.classes.index(name)
        colour = 0 if rng.random() < 0.4 else int(rng.integers(1, len(self.config.colours)))
        return (f"{self.config.colours[colour]} {name}" if colour else name), style, label, colour


def scatter(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """(x, y, size) of things that do not overlap and lie inside the picture."""
    for _ in range(200):
        sizes = rng.uniform(SMALLEST, LARGEST[count], count)
        centres = rng.uniform(sizes / 2, 1 - sizes / 2, (2, count)).T  # (count, 2): x, y
        if disjoint(centres, sizes):
            return [(float(x), float(y), float(s)) for (x, y), s in zip(centres, sizes, strict=True)]
    return scatter(rng, count - 1)


def disjoint(centres: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether squares of `sizes` (count,) around `centres` (count, 2) overlap at most a little at their borders."""
    pairs = ((i, j) for i in range(len(sizes)) for j in range(i))
    return all(np.abs(centres[i] - centres[j]).max() >= 0.47 * (sizes[i] + sizes[j]) for i, j in pairs)


def chimeras(pictures: list[np.ndarray], count: int, seed: int = 0) -> list[np.ndarray]:
    """Sprites of the left half of one thing and the right half of another, or upper and lower: things that are none."""
    rng = np.random.Generator(np.random.PCG64(seed))
    made = []
    for index in range(count if len(pictures) > 1 else 0):
        first, second = (pictures[i] for i in rng.choice(len(pictures), 2, replace=False))
        half = first.shape[0] // 2
        joined = first.copy()
        if index % 2:
            joined[:, half:] = second[:, half:]
        else:
            joined[half:] = second[half:]
        made.append(joined)
    return made


def strangers(data_dir: Path, count: int = STRANGERS) -> list[np.ndarray]:
    """Emoji (128,128,4) that share no word with anything in scenes, from both styles, the same ones every time."""
    wanted = set(scene_concepts())
    words = {
        word
        for c in common_concepts()
        if c.name in wanted
        for text in (c.name, c.unicode_name, *c.synonyms)
        for word in text.split()
    }
    names = emoji_names(data_dir)
    rows = [
        (unit_hash(f"{style} {key}", 0), opened)
        for style, key, opened in emoji_sources(data_dir)
        if style in STYLES and not words & set(names[key].replace("-", " ").split())
    ]
    return [cut_out(opened()) for _, opened in sorted(rows, key=lambda row: row[0])[:count]]


def worn(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the pictures (B,3,H,W) made softer, all a little noisy: what a decoder does to them."""
    side = pictures.shape[-1]
    smaller = int(torch.randint(round(side / 2.5), side, (1,), generator=generator))
    soft = F.interpolate(pictures, size=smaller, mode="bilinear", antialias=True)
    soft = F.interpolate(soft, size=side, mode="bilinear")
    chosen = torch.rand(len(pictures), 1, 1, 1, generator=generator)
    noise = torch.randn(pictures.shape, generator=generator) * 0.04
    strength = torch.rand(len(pictures), 1, 1, 1, generator=generator)
    return (torch.where(chosen < 0.5, soft, pictures) + strength * noise).clamp(0, 1)


def targets(labels: list[list[tuple[int, int, Thing]]], grid: int) -> Targets:
    """The maps of pictures, given class, colour and place of each thing.

    Cells around a centre, within a quarter of the thing's side, learn its box, class and colour; the heat falls off
    from the centre as a Gaussian.
    """
    count = len(labels)
    heat, owned = torch.zeros(count, grid, grid), torch.zeros(count, grid, grid, dtype=torch.bool)
    box = torch.zeros(count, 3, grid, grid)
    classes, colours = (torch.zeros(count, grid, grid, dtype=torch.int64) for _ in range(2))
    cells = torch.arange(grid) + 0.5
    for row, things in enumerate(labels):
        for label, colour, thing in things:
            across, down = thing.x * grid - cells[None, :], thing.y * grid - cells[:, None]  # (1,g), (g,1) in cells
            distance = across**2 + down**2  # (g,g)
            spread = max(0.6, 0.06 * thing.size * grid)
            heat[row] = torch.maximum(heat[row], torch.exp(-distance / (2 * spread**2)))
            near = distance <= max(0.75, 0.25 * thing.size * grid) ** 2
            owned[row] |= near
            values = torch.stack(
                [
                    across.expand(grid, grid),
                    down.expand(grid, grid),
                    torch.full((grid, grid), float(np.log2(thing.size))),
                ]
            )
            box[row] = torch.where(near, values, box[row])
            classes[row][near], colours[row][near] = label, colour
            heat[row, min(int(thing.y * grid), grid - 1), min(int(thing.x * grid), grid - 1)] = 1.0
    return Targets(heat, owned, box, classes, colours)
