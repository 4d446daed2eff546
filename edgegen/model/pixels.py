"""Pictures as networks take them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_tensor(images: np.ndarray) -> Tensor:
    """Pictures (M,H,W,3) uint8 as (M,3,H,W) in [0,1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
