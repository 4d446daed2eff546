"""Moving averages of weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def follow_(averages: Iterable[Tensor], currents: Iterable[Tensor], decay: float, step: int) -> None:
    """Moves averages toward the current values; early steps, before they have settled, count for more."""
    weight = 1 - min(decay, (1 + step) / (10 + step))
    for average, current in zip(averages, currents, strict=True):
        average.lerp_(current, weight)
