"""Flow-matching sampling: sigmas, guidance, Euler steps.

A latent x_t = (1 - t) x0 + t noise; the model predicts the velocity noise - x0; sigma is t.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from edgegen.errors import InputError
from edgegen.schema import Range


@dataclass(frozen=True)
class SamplerConfig:
    """Steps, timestep shift and classifier-free guidance a checkpoint is meant to be drawn with."""

    steps: Annotated[int, Range(1, 1000)] = 28
    shift: Annotated[float, Range(0, 1000, above=True)] = 1.0
    guidance: Annotated[float, Range(0, 100)] = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.steps > 1000:
            raise InputError(f"steps {self.steps} is outside 1 to 1000.")
        if not 0 < self.shift <= 1000:
            raise InputError(f"shift {self.shift} must be above 0 and up to 1000.")
        if not 0 <= self.guidance < 100:
            raise InputError(f"guidance {self.guidance} is outside 0 to 100.")


def flow_sigmas(steps: int, shift: float = 1.0) -> list[float]:
    """steps + 1 noise levels from 1 to 0, shifted toward noise: 4 steps at shift 3 give 1, 0.9, 0.75, 0.5, 0."""
    even = np.linspace(1.0, 0.0, steps + 1)
    return [float(s) for s in shift * even / (1 + (shift - 1) * even)]


def initial_noise(shape: Sequence[int], seed: int) -> np.ndarray:
    """Standard normal float32 noise, the same on every machine and back end for a seed (NumPy's PCG64)."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(shape), dtype=np.float32)


def guide(conditional: np.ndarray, unconditional: np.ndarray, guidance: float) -> np.ndarray:
    """Classifier-free guidance: away from the unconditional velocity; 1 leaves the conditional one."""
    return unconditional + guidance * (conditional - unconditional)


def euler(
    velocity: Callable[[np.ndarray, float], np.ndarray], noise: np.ndarray, sigmas: Sequence[float]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Integrates from noise; yields (latent after the step, predicted x0) for each step, float32."""
    x = noise.astype(np.float32)
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        v = velocity(x, sigma).astype(np.float32)
        predicted = x - np.float32(sigma) * v
        x = x + np.float32(following - sigma) * v
        yield x, predicted
