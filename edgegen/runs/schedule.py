"""Learning rates by step: a linear warm-up, then a cosine, or a plateau and a linear fall."""

from __future__ import annotations

from math import cos, pi


def cosine_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up to `peak`, then half a cosine down to zero at `steps`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + cos(pi * (step - warmup) / max(1, steps - warmup)))


def plateau_rate(step: int, steps: int, peak: float, warmup: int, decay_share: float) -> float:
    """Linear warm-up to `peak`, a plateau, then a linear fall to zero over the last `decay_share` of the steps."""
    warm = min(1.0, (step + 1) / max(1, warmup))
    left = (steps - step) / max(1.0, decay_share * steps)
    return peak * min(warm, left, 1.0)
