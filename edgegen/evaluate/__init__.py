"""Measures of drawn pictures: distances on features, caption retrieval, composition.

What other code calls is named here and imported at its first use, so that the command line stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

PUBLIC = {
    "frechet_distance": "distances", "kernel_distance": "distances", "precision_recall": "neighbours",
    "features": "efficientnet", "composition_scores": "scorer", "open_detector": "scorer",
    "EncodedPrompts": "drawing", "draw_batch": "drawing", "Settings": "evaluation", "evaluate": "evaluation",
    "evaluate_transformers": "evaluation",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)
