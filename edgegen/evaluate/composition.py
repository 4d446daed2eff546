"""Rules that check a scene's caption against the things found in a picture of it, in the manner of GenEval.

Source: Ghosh et al., "GenEval", arXiv 2310.11513; the position rule is that of its evaluate_images.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot

from edgegen.emoji.scenes import PLACES, Scene, Thing
from edgegen.errors import InputError
from edgegen.evaluate.detector import PLAIN, Detection

TASKS = {  # GenEval's name of each kind of scene; the overall score is the mean over them
    "single": "single object", "two": "two objects", "counting": "counting", "colours": "colours",
    "position": "position", "attribution": "colour attribution",
}  # fmt: skip
EXTRA = {"place": "place"}  # a corner of the picture: none of GenEval's tasks, not in the overall score
CONFIDENCE = 0.3  # below it a thing counts as not found, as in GenEval
GAP = 0.1  # share of both sides by which centres must differ before a direction counts, as in GenEval


def satisfies(scene: Scene, found: Sequence[Detection], confidence: float = CONFIDENCE) -> bool:
    """Whether the things found in a picture are what the caption of a scene says."""
    found = [one for one in found if one.confidence >= confidence]
    if scene.kind == "counting":
        return counts(scene, found)
    matched = match(scene.things, found)
    if matched is None:
        return False
    if scene.kind == "position":
        return scene.relation in directions(matched[0], matched[1])
    if scene.kind == "place":
        return any(in_corner(corner_of(scene.things[0]), one) for one in found if fits(scene.things[0], one))
    if scene.kind in TASKS:
        return True
    raise InputError(f"scenes of kind {scene.kind!r} have no rule.", f"Known: {', '.join({**TASKS, **EXTRA})}.")


def counts(scene: Scene, found: Sequence[Detection]) -> bool:
    """As many of the thing as the caption says, no more and no fewer, all in the colour it says."""
    alike = [one for one in found if one.concept == scene.things[0].concept]
    return len(alike) == len(scene.things) and all(fits(scene.things[0], one) for one in alike)


def match(things: Sequence[Thing], found: Sequence[Detection]) -> list[Detection] | None:
    """The surest detection of each thing, none used twice; None where one is missing."""
    left = sorted(found, key=lambda one: -one.confidence)
    matched = []
    for thing in things:
        one = next((one for one in left if fits(thing, one)), None)
        if one is None:
            return None
        left.remove(one)
        matched.append(one)
    return matched


def fits(thing: Thing, one: Detection) -> bool:
    """Whether a detection is of a thing, and in its colour where the caption names one."""
    return one.concept == thing.concept and (thing.colour or PLAIN) in (PLAIN, one.colour)


def directions(first: Detection, second: Detection) -> set[str]:
    """Where the first thing lies from the second: left, right, above, below; none, one or two of them."""
    dx, dy = first.x - second.x, first.y - second.y
    far = hypot(dx, dy)
    if not far:
        return set()
    least = GAP * (first.size + second.size)
    across, down = (max(abs(d) - least, 0) * (1 if d > 0 else -1) / far for d in (dx, dy))
    told = {"left": across < -0.5, "right": across > 0.5, "above": down < -0.5, "below": down > 0.5}
    return {name for name, holds in told.items() if holds}


def corner_of(thing: Thing) -> str:
    """The named corner a thing stands in."""
    return next(name for name, (x, y) in PLACES.items() if (thing.x > 0.5, thing.y > 0.5) == (x == 1, y == 1))


def in_corner(corner: str, one: Detection) -> bool:
    """Whether a thing's centre lies in a corner's quarter of the picture."""
    x, y = PLACES[corner]
    return (one.x > 0.5, one.y > 0.5) == (x == 1, y == 1)


def tally(scenes: Sequence[Scene], right: Sequence[bool]) -> dict[str, dict[str, float]]:
    """Share right and number of pictures of each task, and under 'overall' the mean over GenEval's tasks present."""
    rows: dict[str, dict[str, float]] = {}
    for kind, task in {**TASKS, **EXTRA}.items():
        values = [good for scene, good in zip(scenes, right, strict=True) if scene.kind == kind]
        if values:
            rows[task] = {"score": sum(values) / len(values), "count": len(values)}
    shares = [rows[task]["score"] for task in TASKS.values() if task in rows]
    if shares:
        rows["overall"] = {"score": sum(shares) / len(shares), "count": len(scenes)}
    return rows
