"""Text of any length in a program of one: masks for layers whose module gives them none, while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def masked(layers: Iterable[nn.Module], mask: Tensor) -> Iterator[None]:
    """Gives every layer, called as layer(tokens, mask, ...), this mask (1, S) instead of its own."""
    handles = [layer.register_forward_pre_hook(lambda _, args: (args[0], mask, *args[2:])) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced(layer: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Changes what a layer gives."""
    handle = layer.register_forward_hook(lambda _, args, out: change(out))
    try:
        yield
    finally:
        handle.remove()


def at_the_end(text: Tensor, kept: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The tokens of a text (1, S, D) that a mask (1, S) keeps, as the last of `length`, and the mask of them there.

    Rotary positions count from one token to another, so that tokens moved together stay the same to each other.
    """
    tokens = text[:, kept[0].bool()]
    missing = length - tokens.shape[1]
    filled = nn.functional.pad(tokens, (0, 0, missing, 0))
    return filled, (torch.arange(length) >= missing)[None]
