"""Scenes of one to three emoji with random place, size, colour and background, and what a caption says of them.

A scene is a function of (seed, index, split) alone, so the data never runs out and nothing of it needs to be stored.
What training may see is decided by facts: a thing, a thing in a style, a thing in a colour, a number of a thing, two
things together. Held-out facts never occur in the split 'train'; see `facts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from edgegen.emoji.captions import STYLES, assign_splits, common_concepts, unit_hash, with_article

KINDS = {  # share of the scenes: GenEval's six tasks, and one thing at a named place
    "single": 0.16, "place": 0.06, "two": 0.14, "counting": 0.20, "colours": 0.18, "position": 0.16,
    "attribution": 0.10,
}  # fmt: skip
SPLITS = ("train", "combinations", "concepts")
COLOURS = {
    "red": (226, 38, 44), "orange": (250, 140, 22), "yellow": (250, 212, 35), "green": (58, 168, 62),
    "blue": (38, 104, 226), "purple": (138, 56, 198), "pink": (246, 110, 176),
}  # fmt: skip
RELATIONS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
PLACES = {"top left": (0, 0), "top right": (1, 0), "bottom left": (0, 1), "bottom right": (1, 1)}
NUMBERS = {2: "two", 3: "three"}
CELLS = 8  # of 16 pixels, the tokens of the bundled model, along a side of the picture
STEP = 1  # cells between the places where things begin: every token; 2 is what a model learns shapes from soonest
SIZES = {1: (4, 6), 2: (4,), 3: (4,)}  # side of a thing in cells, by the number of things
IRREGULAR = {"mouse": "mice", "tomato": "tomatoes"}
HELD_OUT_FACTS = 0.1  # share of the combinations that training never sees


@dataclass(frozen=True)
class Thing:
    """One emoji of a scene: centre x, y and side as shares of the picture, x to the right and y down."""

    concept: str
    style: str
    colour: str | None  # None: as it is drawn
    x: float
    y: float
    size: float


@dataclass(frozen=True)
class Scene:
    """Things on a background; `relation` holds of the first to the second, `captions` say the same in other words."""

    kind: str
    things: tuple[Thing, ...]
    background: str  # 'white' or a colour, of which a light shade is drawn
    shade: float  # of the background, in [0, 1): the lightness a caption leaves open
    relation: str | None
    captions: tuple[str, ...]


def scene_concepts() -> tuple[str, ...]:
    """Prompt names of the things that scenes are made of, in the order of `scenes.txt`."""
    text = files("edgegen.emoji").joinpath("scenes.txt").read_text(encoding="utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))


class SceneSource:
    """Draws scenes of a split; which facts are held out does not depend on `seed`."""

    def __init__(self, split: str = "train", seed: int = 0, captions: int = 3):
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is not one of {SPLITS}")
        self.split, self.seed, self.captions = split, seed, captions
        splits = assign_splits(common_concepts(), seed=0)
        wanted = "unseen_concept" if split == "concepts" else "train"
        self.styles = {name: [s for s in STYLES if splits[name, s] == wanted] for name in scene_concepts()}
        self.names = [name for name, styles in self.styles.items() if styles]

    def __getitem__(self, index: int) -> Scene:
        """Scene number `index`: the first of its attempts whose facts belong to the split."""
        rng = np.random.Generator(np.random.PCG64([self.seed, SPLITS.index(self.split), index]))
        while True:
            scene = self._attempt(rng)
            held_out = any(is_held_out(fact) for fact in facts(scene))
            if self.split == "concepts" or held_out == (self.split == "combinations"):
                return scene

    def _attempt(self, rng: np.random.Generator) -> Scene:
        kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
        style = STYLES[rng.integers(len(STYLES))]
        names = [name for name in self.names if style in self.styles[name]]
        count = {"single": 1, "place": 1, "colours": 1, "counting": int(rng.integers(2, 4))}.get(kind, 2)
        picked = [str(n) for n in rng.choice(names, 1 if kind == "counting" else count, replace=False)]
        colours: list[str | None] = [None] * count
        if kind == "colours":
            colours = [draw(rng, COLOURS)]
        elif kind == "attribution":
            colours = [str(c) for c in rng.choice(list(COLOURS), 2, replace=False)]
        elif kind == "counting" and rng.random() < 0.25:
            colours = [draw(rng, COLOURS)] * count
        relation = draw(rng, RELATIONS) if kind == "position" else None
        place = draw(rng, PLACES) if kind == "place" else None
        places = arrange(rng, count, relation, place)
        things = tuple(Thing(picked[i % len(picked)], style, colours[i], *places[i]) for i in range(count))
        background = "white" if rng.random() < 0.5 else draw(rng, COLOURS)
        shade = float(rng.random())
        said = tuple(caption(rng, kind, things, background, relation, place) for _ in range(self.captions))
        return Scene(kind, things, background, shade, relation, said)


def draw(rng: np.random.Generator, choices: Sequence[str] | dict) -> str:
    """One of the choices, all alike likely."""
    names = list(choices)
    return names[rng.integers(len(names))]


def facts(scene: Scene) -> list[str]:
    """The combinations a scene shows, each of which may be held out."""
    names = sorted({t.concept for t in scene.things})
    found = [f"{t.colour} {t.concept}" for t in scene.things if t.colour]
    if scene.kind == "counting":
        found.append(f"{len(scene.things)} {names[0]}")
    if len(names) == 2:
        found.append(" and ".join(names))
    return found


def is_held_out(fact: str) -> bool:
    """Whether training must never see a fact; the same whatever the seed of the scenes."""
    return unit_hash(f"fact {fact}", 0) < HELD_OUT_FACTS


def arrange(
    rng: np.random.Generator, count: int, relation: str | None, place: str | None
) -> list[tuple[float, float, float]]:
    """(x, y, size) of each thing, so that none overlap and all lie inside the picture."""
    sizes = SIZES[count] if place is None else SIZES[2]
    size = int(sizes[rng.integers(len(sizes))])
    while True:
        corners = STEP * rng.integers(0, (CELLS - size) // STEP + 1, (count, 2))  # first cells: x, y
        if place is not None:
            corners = np.array([PLACES[place]]) * (CELLS - size)
        if apart(corners, size) and (relation is None or holds(relation, corners[0] / CELLS, corners[1] / CELLS)):
            return [((x + size / 2) / CELLS, (y + size / 2) / CELLS, size / CELLS) for x, y in corners.tolist()]


def apart(corners: np.ndarray, size: int) -> bool:
    """Whether squares of `size` cells at first cells (count, 2) are disjoint."""
    return all(np.abs(corners[i] - corners[j]).max() >= size for i in range(len(corners)) for j in range(i))


def holds(relation: str, first: np.ndarray, second: np.ndarray) -> bool:
    """Whether `first` (x, y) stands in a relation to `second`, clearly so and more than in the other direction."""
    dx, dy = first - second
    along, across = {"left": (-dx, dy), "right": (dx, dy), "above": (-dy, dx), "below": (dy, dx)}[relation]
    return bool(along > 0.2 and along > 1.5 * abs(across))


def caption(
    rng: np.random.Generator,
    kind: str,
    things: tuple[Thing, ...],
    background: str,
    relation: str | None,
    place: str | None,
) -> str:
    """One wording: style and background are said or left open; a number, a colour and a relation are always said."""
    style = things[0].style if rng.random() < 0.35 else ""
    words = [" ".join(filter(None, (style, t.colour, t.concept))) for t in things]
    named = [with_article(word) for word in words]
    if kind == "counting":
        text = f"{NUMBERS[len(things)]} {plural(words[0])}"
    elif relation:
        first, second = named
        said = RELATIONS[relation][rng.integers(2)]
        text = f"{first} {said} {second}"
    elif len(things) == 2:
        first, second = named if rng.random() < 0.5 else named[::-1]
        joint = ("{} and {}", "{} with {}", "{} next to {}", "{}, {}")[rng.integers(4)]
        text = joint.format(first, second)
    elif place:
        text = f"{named[0]} {('in the', 'at the')[rng.integers(2)]} {place}{('', ' corner')[rng.integers(2)]}"
    else:
        text = ("{}", "{}", "a picture of {}", "an emoji of {}")[rng.integers(4)].format(named[0])
        text = words[0] if rng.random() < 0.2 else text
    return with_background(rng, text, background)


def with_background(rng: np.random.Generator, text: str, background: str) -> str:
    """The caption with its background said, more often when it has a colour."""
    if rng.random() > (0.15 if background == "white" else 0.7):
        return text
    forms = (f"on {with_article(f'{background} background')}", f"on {background}")
    return f"{text} {draw(rng, forms)}" if rng.random() < 0.67 else f"{text}, {background} background"


def plural(name: str) -> str:
    """'dogs', 'red butterflies', 'buses': a name with its last word in the plural."""
    *before, last = name.split(" ")
    if last in IRREGULAR:
        last = IRREGULAR[last]
    elif last.endswith(("s", "x", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2] not in "aeiou":
        last = f"{last[:-1]}ies"
    else:
        last += "s"
    return " ".join([*before, last])
