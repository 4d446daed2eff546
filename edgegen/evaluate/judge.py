"""All measures of pictures drawn for one set of prompts, beside what real pictures score.

Shapes: N prompts, H = W pixels, D = 1280 features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from edgegen.callbacks import Report
from edgegen.errors import InputError
from edgegen.evaluate.detector import Detector
from edgegen.evaluate.distances import COMPONENTS, frechet_distance, kernel_distance
from edgegen.evaluate.efficientnet import features
from edgegen.evaluate.head_data import caption_vectors, open_head
from edgegen.evaluate.neighbours import NEIGHBOURS, precision_recall
from edgegen.evaluate.prompts import SCENES, PromptSet, check_data
from edgegen.evaluate.retrieval import POOL, RetrievalHead, retrieval
from edgegen.evaluate.scorer import check_known, composition_scores, open_detector

Scores = dict[str, Any]
MEASURES = {
    "frechet": f"squared Fréchet distance of EfficientNet-lite0 features on {COMPONENTS} principal components of the "
               "real ones; it falls with the number of pictures",
    "kernel": "unbiased squared MMD of the 1280 features, kernel (x.y/1280 + 1)^3",
    "precision": f"share of drawn pictures on the real manifold, {NEIGHBOURS} neighbours",
    "recall": f"share of real pictures on the drawn manifold, {NEIGHBOURS} neighbours",
    "retrieval": f"own caption among at most {POOL}, by a head trained on real pictures",
    "composition": "share of pictures a detector and rules find to show what the caption says",
}  # fmt: skip


@dataclass
class Judge:
    """What it takes to score pictures of a set of prompts; made once for all variants."""

    prompts: PromptSet
    data: Path
    head: RetrievalHead
    captions: Tensor  # (N,E)
    detector: Detector | None  # None where there are no scenes to check
    real: Tensor | None  # (N,D) features of real pictures

    @classmethod
    def open(cls, prompts: PromptSet, data: Path, report: Report = lambda line: None) -> Judge:
        """Reads or trains what is needed; what cannot be measured is refused before anything is drawn."""
        check_data(data)
        check_enough(prompts)
        detector = open_detector() if prompts.scenes else None
        if detector is not None:
            check_known(detector, prompts.scenes)
        head = open_head(data, report)
        report(f"features of {prompts.count} real pictures")
        real = None if prompts.real is None else features(prompts.real, data)
        return cls(prompts, data, head, caption_vectors(head, data, list(prompts.prompts)), detector, real)

    def score(self, pictures: np.ndarray) -> Scores:
        """Every measure of pictures (N,H,W,3) uint8, one a prompt in their order."""
        if len(pictures) != self.prompts.count:
            raise InputError(
                f"there are {len(pictures)} pictures for {self.prompts.count} prompts.", "Give one a prompt."
            )
        seen = features(pictures, self.data)
        scores: Scores = self._distances(seen) if self.real is not None else {}
        return scores | self._content(seen, pictures)

    def reference(self) -> Scores | None:
        """What real pictures score: distances are of other scenes of the same kind, the rest of the prompts' own."""
        if self.real is None or self.prompts.real is None:
            return None
        others = self.prompts.others
        distances = self._distances(features(others, self.data)) if others is not None else {}
        return distances | self._content(self.real, self.prompts.real)

    def _distances(self, seen: Tensor) -> Scores:
        precision, recall = precision_recall(self.real, seen)
        return {
            "frechet": frechet_distance(self.real, seen, COMPONENTS),
            "kernel": kernel_distance(self.real, seen),
            "precision": precision,
            "recall": recall,
        }

    def _content(self, seen: Tensor, pictures: np.ndarray) -> Scores:
        scores: Scores = {"retrieval": retrieval(self.head(seen), self.captions, self.prompts.prompts)}
        if self.detector is not None:
            scores["composition"] = composition_scores(self.detector, self.prompts.scenes, pictures)
        return scores


def check_enough(prompts: PromptSet) -> None:
    """Refuses fewer prompts than the measures can bear."""
    least = COMPONENTS + 1 if prompts.real is not None else 2
    if prompts.count < least:
        where = "prompts" if prompts.name in SCENES else f"prompts in {prompts.name}"
        raise InputError(
            f"there are {prompts.count} {where}; the measures need at least {least}.",
            "Give a larger --count, or a set with more.",
        )
