"""The distinct values of an fp16 tensor: at most 65,536 however large it is, so whatever can be a table is one.

A code is the 16 bits of a value; a rank is its place in ascending order, -inf to inf, NaNs at both ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from edgegen.errors import InputError

CODES = 2**16
CHUNK = 2**17  # elements converted at once: index conversions stay in the cache


@dataclass(frozen=True)
class Histogram:
    """Distinct values, ascending, with the weight of each above 0; both (n,) float64."""

    values: np.ndarray
    weights: np.ndarray

    @property
    def total(self) -> float:
        return float(self.weights.sum())


@cache
def ranks() -> np.ndarray:
    """Rank (65536,) of every code: negative values run backwards below the positive ones."""
    codes = np.arange(CODES)
    return np.where(codes < CODES // 2, codes + CODES // 2, CODES - 1 - codes)


@cache
def ranked_values() -> np.ndarray:
    """Value (65536,) float64 of every rank; what is not finite is -inf or inf, so that the whole ascends."""
    values = np.empty(CODES)
    values[ranks()] = np.arange(CODES, dtype=np.uint16).view(np.float16)
    values[np.isnan(values)] = np.inf
    values[: np.searchsorted(np.arange(CODES), ranks()[0xFC00])] = -np.inf
    return values


def half(weight: Tensor, name: str) -> Tensor:
    """The weight in fp16 on the CPU; an empty one is an error that names it."""
    if weight.numel() == 0:
        raise InputError(f"{name} is empty.", "Leave it out of the palettized layers.")
    return weight.detach().to("cpu", torch.float16)


def codes_of(weight: Tensor) -> np.ndarray:
    """The codes (numel,) uint16 of an fp16 tensor, in row-major order and its own memory."""
    return weight.contiguous().view(-1).numpy().view(np.uint16)


def histogram(codes: np.ndarray, importance: np.ndarray | None = None) -> Histogram:
    """Counts the values of `codes` (count,), or sums the importance (count,) of each; NaN counts as infinite."""
    sums = np.zeros(CODES)
    for start in range(0, codes.size, CHUNK):
        part = slice(start, start + CHUNK)
        sums += np.bincount(codes[part], None if importance is None else importance[part], minlength=CODES)
    by_rank = np.empty(CODES)
    by_rank[ranks()] = sums
    zero = CODES // 2
    by_rank[zero] += by_rank[zero - 1]  # -0 is 0
    by_rank[zero - 1] = 0
    found = np.flatnonzero(by_rank)
    return Histogram(ranked_values()[found], by_rank[found])


def assign(codes: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Index (count,) uint8 of the centroid nearest to each value; centroids ascend; a tie goes to the upper one."""
    middles = (centroids[1:] + centroids[:-1]) / 2
    starts = np.concatenate([[0], np.searchsorted(ranked_values(), middles), [CODES]])
    table = np.repeat(np.arange(centroids.size, dtype=np.uint8), np.diff(starts))[ranks()]  # index of every code
    indices = np.empty(codes.size, np.uint8)
    for start in range(0, codes.size, CHUNK):
        part = slice(start, start + CHUNK)
        np.take(table, codes[part], out=indices[part], mode="clip")  # "clip" spares the copy that "raise" makes
    return indices
