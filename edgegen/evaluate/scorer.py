"""The automatic scorer of composition: the detector, the rules, and how often both are right on real scenes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from edgegen.emoji.assets import SIZE
from edgegen.emoji.scenes import Scene
from edgegen.errors import InputError
from edgegen.evaluate.checks import check_pictures
from edgegen.evaluate.composition import satisfies, tally
from edgegen.evaluate.detector import Detector, detect
from edgegen.evaluate.detector_training import load_detector
from edgegen.model.pixels import to_tensor

NAME = "scenes.safetensors"


def bundled_detector() -> Path:
    """The weights that come with the package."""
    return Path(str(files("edgegen.evaluate"))) / "weights" / NAME


def open_detector(path: Path | None = None) -> Detector:
    """The detector of a file, or the bundled one."""
    return load_detector(path or bundled_detector())


def judge(detector: Detector, scenes: Sequence[Scene], pictures: np.ndarray) -> list[bool]:
    """Whether each picture (N,H,W,3) uint8 shows what its scene's caption says."""
    check_pictures(pictures)
    if len(scenes) != len(pictures):
        raise InputError(f"{len(scenes)} scenes have {len(pictures)} pictures.", "Give one picture a scene.")
    check_known(detector, scenes)
    found = detect(detector, at_size(to_tensor(pictures)))
    return [satisfies(scene, things) for scene, things in zip(scenes, found, strict=True)]


def at_size(pictures: Tensor) -> Tensor:
    """Pictures (N,3,H,W) at the size the detector knows."""
    if pictures.shape[-2:] == (SIZE, SIZE):
        return pictures
    return F.interpolate(pictures, size=(SIZE, SIZE), mode="bilinear", antialias=True)


def composition_scores(detector: Detector, scenes: Sequence[Scene], pictures: np.ndarray) -> dict[str, dict]:
    """Share of pictures that show what the caption says, by task and overall."""
    return tally(scenes, judge(detector, scenes, pictures))


def check_known(detector: Detector, scenes: Sequence[Scene]) -> None:
    """Refuses scenes of things that the detector never learnt."""
    unknown = sorted({t.concept for scene in scenes for t in scene.things} - set(detector.config.classes))
    if unknown:
        raise InputError(
            f"the detector does not know {', '.join(unknown[:5])}.",
            "Train one on these scenes: edgegen evaluate scorer --train.",
        )
