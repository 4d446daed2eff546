"""Aspect-ratio buckets: the token grids a model takes at about one number of pixels, and pictures cut to them.

A bucket is a token grid (rows, columns); pictures are (width, height) in pixels, as Pillow gives them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from edgegen.errors import InputError
from edgegen.model.config import DiTConfig
from edgegen.train.data.dataset_picture import BadPicture

Bucket = tuple[int, int]
LEAST_SHARE = 0.85  # of the budget that a bucket must use: a batch's cost should not depend on its bucket


def make_buckets(fits: Callable[[Bucket], bool], budget: int, max_ratio: float) -> list[Bucket]:
    """For each number of rows the most columns within `budget` tokens that fit model and ratio, and its transpose."""
    found = set()
    for rows in range(1, math.isqrt(round(budget * max_ratio)) + 1):
        for columns in range(budget // rows, 0, -1):
            if max(rows, columns) <= max_ratio * min(rows, columns) and fits((rows, columns)):
                if rows * columns >= LEAST_SHARE * budget:
                    found |= {pair for pair in ((rows, columns), (columns, rows)) if fits(pair)}
                break
    return sorted(found)


def model_buckets(config: DiTConfig, pixels_per_token: int, pixels: int = 0, max_ratio: float = 2.0) -> list[Bucket]:
    """The buckets of a model at a budget of pixels, or at its own training grid; InputError when nothing fits."""
    budget = pixels // pixels_per_token**2 or config.grid[0] * config.grid[1]
    if 0 < pixels < pixels_per_token**2:
        raise InputError(f"data.pixels is {pixels}, less than the {pixels_per_token**2} of one token.", "Raise it.")
    buckets = make_buckets(config.fits, budget, max_ratio)
    if not buckets:
        side = math.isqrt(budget)
        near = config.nearest_grid((side, side))
        raise InputError(
            f"no token grid of {budget} tokens fits the model at ratios up to {max_ratio:g}.",
            f"Try --set data.pixels={near[0] * near[1] * pixels_per_token**2}.",
        )
    return buckets


def assign(size: tuple[int, int], buckets: Sequence[Bucket]) -> Bucket:
    """The bucket whose ratio is closest to a picture's, on a logarithmic scale; ties go to the larger."""
    ratio = math.log(size[1] / size[0])
    return min(buckets, key=lambda b: (abs(math.log(b[0] / b[1]) - ratio), -b[0] * b[1], b))


def cut(picture: Image.Image, size: tuple[int, int], max_enlarge: float, max_crop: float) -> np.ndarray:
    """The middle of an RGB picture in the shape of `size` (width, height), scaled to it; uint8 (height,width,3).

    BadPicture when it would be enlarged more, or lose more of its area, than allowed.
    """
    scale = max(size[0] / picture.width, size[1] / picture.height)  # so that it covers
    if scale > max_enlarge:
        raise BadPicture(
            f"{picture.width}x{picture.height} would be enlarged {scale:.1f}x, the limit is "
            f"{max_enlarge:g} (data.max_enlarge)"
        )
    width, height = size[0] / scale, size[1] / scale  # what is kept, in its own pixels
    lost = 1 - width * height / (picture.width * picture.height)
    if lost > max_crop:
        raise BadPicture(
            f"{picture.width}x{picture.height} would lose {lost:.0%} when cut to {size[0]}x{size[1]}, "
            f"the limit is {max_crop:.0%} (data.max_crop)"
        )
    left, top = max(0.0, (picture.width - width) / 2), max(0.0, (picture.height - height) / 2)  # rounding: below 0
    box = (left, top, min(left + width, picture.width), min(top + height, picture.height))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS, box, reducing_gap=3.0))
