"""A module with random weights of its own, by which a converter's constants tell which parameter they hold.

Values of a trained network can coincide (norms of ones, projections of zeros), and converters merge or drop what does;
random ones do not, so that what was converted once holds for every module of the same structure.
"""

from __future__ import annotations

import copy
import hashlib

import numpy as np
import torch
from torch import nn

LEAST, MOST = 0.25, 1.0


def fingerprinted(module: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of a module whose parameters are random, each number exact in float16 and none near 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    made = {name: random_like(p, generator) for name, p in module.named_parameters()}
    memo = {id(p): made[name] for name, p in module.named_parameters()}
    return copy.deepcopy(module, memo)  # the copy takes these instead of copying weights


def random_like(parameter: nn.Parameter, generator: torch.Generator) -> nn.Parameter:
    """Between 0.25 and 0.99, of the same shape."""
    values = torch.rand(parameter.shape, generator=generator) * (MOST - LEAST - 0.01) + LEAST
    return nn.Parameter(values.half().float(), requires_grad=False)


def key(values: np.ndarray) -> tuple[int, bytes]:
    """What two constants of the same numbers share, whatever their shape: values as float16."""
    half = np.ascontiguousarray(values, np.float16)
    return half.size, hashlib.sha256(half.tobytes()).digest()


def keys_of(module: nn.Module) -> dict[tuple[int, bytes], str]:
    """The parameters of a fingerprinted module by their key."""
    return {key(parameter.numpy()): name for name, parameter in module.named_parameters()}
