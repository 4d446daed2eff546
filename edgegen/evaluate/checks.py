"""What every measure asks of its samples; each refusal names the value and the limit."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edgegen.errors import InputError


def check_samples(name: str, samples: Tensor, at_least: int, why: str) -> None:
    """Refuses samples that are not (N, D), not finite, or fewer than a measure can bear."""
    if samples.dim() != 2:
        raise InputError(f"the {name} samples have shape {tuple(samples.shape)}, not (N, D).", "Give one row a sample.")
    if len(samples) < at_least:
        raise InputError(
            f"there are {len(samples)} {name} samples; {why} needs at least {at_least}.",
            "Give more, with --count where it is a command.",
        )
    if not torch.isfinite(samples).all():
        raise InputError(f"the {name} samples are not finite.", "Look for NaN in the pictures they come from.")


def check_same_width(first: Tensor, second: Tensor) -> None:
    """Refuses two sets of samples in different spaces."""
    if first.shape[1] != second.shape[1]:
        raise InputError(
            f"the samples have {first.shape[1]} and {second.shape[1]} dimensions.", "Take both from one network."
        )


def check_pictures(pictures: np.ndarray) -> None:
    """Refuses what is not a set of 8-bit pictures (N,H,W,3)."""
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3 or not pictures.size:
        raise InputError(
            f"pictures are {pictures.dtype} {pictures.shape}, not uint8 (N,H,W,3) with N at least 1.",
            "Give 8-bit RGB pictures.",
        )
