"""What may stand in training settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgegen.errors import InputError

LIMITS: dict[str, tuple[float, float]] = {  # name: least and most, both allowed
    "steps": (1, 10**9),
    "batch": (1, 10**6),
    "accumulate": (1, 10**6),
    "crop": (8, 128),
    "rate": (1e-9, 10),
    "peak_rate": (1e-9, 10),
    "warmup": (0, 10**9),
    "weight_decay": (0, 10),
    "latent_noise": (0, 10),
    "decay_share": (0, 1),
    "clip": (1e-9, math.inf),
    "ema": (0, 0.999999),
    "drop_caption": (0, 1),
    "drop_encoder": (0, 0.5),
    "shift": (1e-3, 1000),
    "sub_widths": (1, 100),
    "full_every": (1, 10**6),
    "frozen_width": (0, 1),
    "seed": (0, 2**31 - 1),
    "log_every": (1, 10**9),
    "validate_every": (1, 10**9),
}


def check_ranges(settings: Any, limits: Mapping[str, tuple[float, float]] = LIMITS) -> None:
    """Refuses a number of a settings dataclass that is outside its limits, or not a number."""
    for name, (low, high) in limits.items():
        value = getattr(settings, name, low)
        if not low <= value <= high:
            raise InputError(f"{name} is {value}; it must lie between {low} and {high}.")


def check_betas(betas: Sequence[float]) -> None:
    """Refuses what Adam cannot take."""
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise InputError(f"betas are {list(betas)}; two numbers from 0 to below 1 are needed.")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuses a setting that is not one of its choices."""
    if value not in choices:
        raise InputError(f"{name} {value!r} is not one of {', '.join(choices)}.")
