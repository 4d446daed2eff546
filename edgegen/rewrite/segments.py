"""A network as a sequence of parts that read and write named values, so that equal parts are lowered once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Segment:
    """A part of a network: its module, and the names of the values it reads and writes.

    `prefix` is what its parameters' names lack of those in the whole network, such as "middle.0"; "" for nothing.
    """

    name: str
    prefix: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def unfolded(self) -> bool:
        """Whether a converter must leave products and sums beside the weights that it could fold them into."""
        return False

    def full(self, parameter: str) -> str:
        """The name of a parameter in the whole network."""
        return f"{self.prefix}.{parameter}" if self.prefix else parameter

    def renamed(self, name: Callable[[str], str]) -> Self:
        """The segment with other names for the values it reads and writes."""
        return replace(self, inputs=tuple(map(name, self.inputs)), outputs=tuple(map(name, self.outputs)))

    def value(self, parameter: str) -> Tensor:
        """The values of a parameter, which may lie elsewhere than in the module."""
        return self.module.get_parameter(parameter).detach()


def run_segments(segments: Sequence[Segment], feed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every value of a network whose segments run in order."""
    values = dict(feed)
    for segment in segments:
        made = segment.module(*(values[name] for name in segment.inputs))
        values |= zip(segment.outputs, made if isinstance(made, tuple) else (made,), strict=True)
    return values


def structure(module: nn.Module) -> str:
    """A digest that two modules share when they differ in nothing but the values of their parameters.

    It covers types, plain attributes, shapes, and the values of buffers, which are constants of the structure.
    """
    seen = hashlib.sha256()
    for line in described(module):
        seen.update(f"{line}\n".encode())
    return seen.hexdigest()


def described(module: nn.Module) -> Iterator[str]:
    """The lines that `structure` digests."""
    for path, part in module.named_modules():
        yield f"{path}: {type(part).__module__}.{type(part).__qualname__}"
        for key, value in sorted(vars(part).items()):
            if not key.startswith("_"):
                yield f"{path}.{key} = {value!r}"
        for key, parameter in part.named_parameters(recurse=False):
            yield f"{path}.{key}: {tuple(parameter.shape)} {parameter.dtype}"
        for key, buffer in part.named_buffers(recurse=False):
            yield f"{path}.{key}: {tuple(buffer.shape)} {buffer.dtype} {content(buffer)}"


def content(value: Tensor) -> str:
    """A digest of a tensor's values."""
    return hashlib.sha256(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data).hexdigest()
