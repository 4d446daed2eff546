"""Trains the scorer's detector on scenes of a data folder, and measures how often the scorer is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgegen.emoji.scene_pictures import Sprites
from edgegen.emoji.scenes import Scene
from edgegen.errors import InputError, unknown
from edgegen.evaluate.composition import satisfies, tally
from edgegen.evaluate.detector import Detection, Detector, detect
from edgegen.evaluate.detector_data import Crowds, strangers
from edgegen.evaluate.detector_training import DetectorTraining, detector_note, save_detector, train_detector
from edgegen.evaluate.prompts import SCENES, SEED, check_data, pictures_of, scenes_of
from edgegen.evaluate.scorer import bundled_detector, check_known, open_detector
from edgegen.model.pixels import to_tensor


def parse_settings(pairs: Sequence[str]) -> DetectorTraining:
    """The training with key=value changes."""
    known = {field.name: field for field in fields(DetectorTraining)}
    changes: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--set {pair!r} is not key=value.", "Write --set steps=500.")
        if key not in known:
            raise unknown("setting", key, tuple(known))
        kind = type(known[key].default)
        try:
            changes[key] = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError):
            raise InputError(f"{key} {text!r} is not {kind.__name__}.", f"Default: {known[key].default}.") from None
    return replace(DetectorTraining(), **changes)


def train_scorer(data: Path, run: Path, out: Path, training: DetectorTraining) -> Path:
    """Trains, or resumes, a detector and writes its weights to a file."""
    check_data(data)
    crowds = Crowds(Sprites.load(data), strangers(data), training.seed)
    detector = train_detector(crowds, run, training)
    save_detector(
        detector,
        out,
        {
            "steps": str(training.steps),
            "batch": str(training.batch),
            "seed": str(training.seed),
            "torch": torch.__version__,
        },
    )
    return out


def accuracy(data: Path, weights: Path | None = None, count: int = 500) -> dict[str, Any]:
    """How often the scorer is right on real scenes of held-out seeds, by split and task.

    'right' is the share of real pictures that it accepts for their own scene: the most any model could score.
    'wrong' is the share that it accepts for another scene of the same task that the picture does not show.
    """
    check_data(data)
    detector, sprites, splits = open_detector(weights), Sprites.load(data), {}
    for name, split in SCENES.items():
        scenes = scenes_of(split, count, SEED)
        check_known(detector, scenes)
        pictures = pictures_of(sprites, scenes)
        splits[name] = score_detector(detector, scenes, pictures)
    return {
        "weights": str(weights or bundled_detector()),
        "note": detector_note(weights or bundled_detector()),
        "count": count,
        "seed": SEED,
        "splits": splits,
    }


def score_detector(detector: Detector, scenes: list[Scene], pictures: np.ndarray) -> dict[str, Any]:
    """Right and wrong acceptances by task, and how well things are found."""
    found = detect(detector, to_tensor(pictures))
    right = [satisfies(scene, things) for scene, things in zip(scenes, found, strict=True)]
    strange = other_scenes(scenes)
    pairs = [(scene, found[i]) for i, scene in enumerate(strange) if scene is not None]
    wrong = [satisfies(scene, things) for scene, things in pairs]
    return {
        "right": tally(scenes, right),
        "wrong": tally([scene for scene, _ in pairs], wrong),
        "things": things_found(scenes, found),
    }


def other_scenes(scenes: list[Scene]) -> list[Scene | None]:
    """For each scene the next of its kind that its picture does not show: another thing, number, colour or place."""
    others: list[Scene | None] = []
    for index, scene in enumerate(scenes):
        truth = [as_detection(thing) for thing in scene.things]
        later = (scenes[(index + step) % len(scenes)] for step in range(1, len(scenes)))
        others.append(next((one for one in later if one.kind == scene.kind and not satisfies(one, truth)), None))
    return others


def as_detection(thing: Any) -> Detection:
    """A thing as a perfect detector would find it."""
    return Detection(thing.concept, thing.colour or "", thing.x, thing.y, thing.size, 1.0)


def things_found(scenes: list[Scene], found: list[list[Detection]]) -> dict[str, float]:
    """Of the things in real scenes: how many are found in place, with their name, and with their colour."""
    placed = named = coloured = total = 0
    for scene, detections in zip(scenes, found, strict=True):
        for thing in scene.things:
            total += 1
            near = [one for one in detections if max(abs(one.x - thing.x), abs(one.y - thing.y)) < thing.size / 4]
            placed += bool(near)
            named += any(one.concept == thing.concept for one in near)
            coloured += any(one.colour == (thing.colour or "") for one in near)
    return {"in place": placed / total, "named": named / total, "colour": coloured / total, "count": total}
