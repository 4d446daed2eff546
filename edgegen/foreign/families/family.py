"""A family: which inputs its transformer takes, how its latents are packed, and how its pipeline samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """What example inputs are made for: the grid of latents before packing, text tokens, and a seed."""

    height: int
    width: int
    tokens: int
    seed: int = 0

    def noise(self, *shape: int, offset: int = 0) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(1000 * self.seed + offset))

    @property
    def sigma(self) -> float:
        """A noise level in (0, 1]."""
        return 1.0 - (self.seed * 0.37) % 0.9

    def mask(self) -> Tensor:
        """(1, L) with a few tokens of filling at the end, another number for each seed."""
        kept = self.tokens - 1 - self.seed % max(self.tokens // 2, 1)
        return (torch.arange(self.tokens) < kept).long()[None]


@dataclass(frozen=True)
class Family:
    """One family of diffusers.

    inputs: keyword arguments of the transformer. constant: those that become part of the program. prediction: what the
    network gives ("epsilon", "velocity", "trigflow"). sampler, guidance ("batch", "embedded", "none"), packing (how
    latents (C, h, w) become tokens): for the manifest. optional: networks that its pipeline draws without.
    """

    name: str
    title: str
    transformer: str
    pipelines: tuple[str, ...]
    inputs: Callable[[Config, Request], dict[str, Any]]
    constant: tuple[str, ...] = ()
    prediction: str = "velocity"
    sampler: str = "flow-matching Euler"
    guidance: str = "batch"
    packing: str = "none"
    text_length: int = 256
    optional: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "family": self.name, "prediction": self.prediction, "sampler": self.sampler, "guidance": self.guidance,
            "packing": self.packing, "text_length": self.text_length,
        }  # fmt: skip


def grid_ids(height: int, width: int, columns: int) -> Tensor:
    """(h*w, columns) position ids: rows and columns in the second and third place."""
    ids = torch.zeros(height, width, columns)
    ids[..., 1] += torch.arange(height)[:, None]
    ids[..., 2] += torch.arange(width)[None]
    return ids.reshape(-1, columns)
