"""What the original computes where a deployed transformer is cut, under the names that its chunks give it.

Shapes: B batch, N tokens, D channels, L text tokens. Values are kept as (B, N, C); what is the same for all tokens has
N = 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from torch import Tensor, nn

from edgegen.callbacks import Advance
from edgegen.errors import InputError, brief
from edgegen.model.dit import DiT
from edgegen.pipeline.networks import Condition
from edgegen.rewrite.attention import MASKED
from edgegen.rewrite.dit import SCALES

Read = Callable[[Tensor | tuple[Tensor, ...]], Tensor]  # from what a module gives to a value (B, N, C)


class Between:
    """Takes values from inside the original while it runs; a name that stands for none of them is an InputError."""

    def __init__(self, dit: DiT, names: Sequence[str]):
        self.sources = {name: source_of(dit, name) for name in names if name not in OF_CONDITION}
        self.names = tuple(names)

    @contextmanager
    def watching(self, condition: Condition) -> Iterator[dict[str, np.ndarray]]:
        """Within it each value is noted as it is made; yields the notes."""
        found = {name: OF_CONDITION[name](condition) for name in self.names if name in OF_CONDITION}
        hooks = [
            module.register_forward_hook(noting(found, name, read)) for name, (module, read) in self.sources.items()
        ]
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()


@contextmanager
def blocks_told(dit: DiT, calls: int, advance: Advance) -> Iterator[None]:
    """Within it `advance` is told of every block that runs, of those of so many calls."""
    blocks = [block for stage in dit.config.stages for block in getattr(dit, stage)]
    done = itertools.count(1)

    def hook(module: nn.Module, inputs: object, made: object) -> None:
        advance(next(done), calls * len(blocks))

    hooks = [block.register_forward_hook(hook) for block in blocks]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


def noting(found: dict[str, np.ndarray], name: str, read: Read) -> Callable[..., None]:
    """A hook that notes what a module gives."""

    def hook(module: nn.Module, inputs: object, made: Tensor | tuple[Tensor, ...]) -> None:
        found[name] = read(made).detach().numpy()

    return hook


def source_of(dit: DiT, name: str) -> tuple[nn.Module, Read]:
    """The module of the original that makes a value, and how it is read from what that gives."""
    sources: dict[str, tuple[nn.Module, Read]] = {
        "patches": (dit.patch, whole),
        "embedding": (dit.modulation, embedding),
        "modulation": (dit.modulation, modulation),
    }
    if len(dit.config.stages) == 3:
        up = dit.upsample if dit.skip is None else dit.skip
        sources |= {"downsample": (dit.downsample, whole), "upsample": (up, whole)}
    for stage in dit.config.stages:
        sources |= {f"{stage}_{index}": (block, whole) for index, block in enumerate(getattr(dit, stage))}
    if name not in sources:
        raise InputError(f"{brief(name)} is no value inside this transformer.", "Export the bundle again.")
    return sources[name]


def whole(made: Tensor | tuple[Tensor, ...]) -> Tensor:
    """(B, N, D) as it is."""
    assert isinstance(made, Tensor)
    return made


def embedding(made: Tensor | tuple[Tensor, ...]) -> Tensor:
    """(B, D) -> (B, 1, D)."""
    return made[0][:, None]


def modulation(made: Tensor | tuple[Tensor, ...]) -> Tensor:
    """(B, 6, D) -> (B, 1, 6D), with the 1 of `1 + scale` that the deployed form has in it (rewrite/dit.py)."""
    values = made[1].clone()
    values[:, list(SCALES)] += 1
    return values.flatten(1)[:, None]


def bias(condition: Condition) -> np.ndarray:
    """Of masked tokens, (B, L, 1, 1) -> (B, 1, L)."""
    return (condition["text_mask"] * -MASKED + MASKED)[:, :, 0, 0][:, None]


def tokens(condition: Condition) -> np.ndarray:
    """The text, (B, T, 1, L) -> (B, L, T)."""
    return condition["text"][:, :, 0].transpose(0, 2, 1)


OF_CONDITION: dict[str, Callable[[Condition], np.ndarray]] = {"bias": bias, "tokens": tokens}


def laid_out(value: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A value (B, N, C) as a program has it: channels first, (B, C, 1, N), or last; one in its layout as it is."""
    if value.shape == tuple(shape):
        return value
    first = value.transpose(0, 2, 1)[:, :, None]
    return first if first.shape == tuple(shape) else value.reshape(shape)
