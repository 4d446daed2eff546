"""A family: which inputs its transformer takes, how its latents are packed, and how its pipeline samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgegen.errors import InputError

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

    inputs: keyword arguments of the transformer. constant: those that become part of the program. optional: networks
    that its pipeline draws without.

    For the manifest, as edgegen/manifest_pipeline.py explains: prediction, sampler, where no scheduler tells; guidance
    of a network that does not embed it; embedding: what differs of one that does; packing: how latents (C, h, w)
    become tokens; timestep, input, predicted, noise, final: formulas; guided,
    guided_channels, guidance_norm: of a batch.

    A program takes text of one length. mask: the input that tells which tokens of `text` count, so that a shorter text
    is filled. prepare: the network as it is recorded, where its own inputs would fix the length of a prompt. rows: the
    inputs of each picture, of the arguments a pipeline gives for all; listed: its results are lists of pictures.
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
    embedding: Mapping[str, str] | None = None
    guided: str = "without + scale * (with_prompt - without)"
    guided_channels: int = 0
    guidance_norm: str = ""
    packing: str = "none"
    timestep: str = "t"
    input: str = "x"
    predicted: str = "output"
    noise: str = "x"
    final: str = "x"
    text_length: int = 256
    optional: tuple[str, ...] = ()
    text: str = "encoder_hidden_states"
    mask: str = ""
    prepare: Callable[[nn.Module], nn.Module] = lambda network: network
    rows: Callable[[dict[str, Any], int], list[dict[str, Any]]] | None = None
    listed: bool = False
    verified: tuple[str, ...] = ("onnx", "coreml", "executorch")  # with random weights: benchmarks/foreign_networks

    def to_dict(self, config: Config = MappingProxyType({})) -> dict[str, Any]:
        """For the manifest, of a network with this configuration."""
        embedding = {"guidance": "embedded", **(self.embedding or {})} if config.get("guidance_embeds") else {}
        scale = config.get("timestep_scale", 1.0)  # of SANA
        timestep = self.timestep if scale == 1 else f"{scale:g} * {self.timestep}"
        told = {
            "family": self.name, "prediction": self.prediction, "sampler": self.sampler, "guidance": self.guidance,
            "packing": self.packing, "noise": self.noise, "timestep": timestep, "input": self.input,
            "predicted": self.predicted, "final": self.final, "learned_sigma": learns_sigma(config),
            "text_length": self.text_length, "text": self.text, "text_mask": self.mask,
        } | embedding  # fmt: skip
        return told | (self.told_guidance() if told["guidance"] == "batch" else {})

    def told_guidance(self) -> dict[str, Any]:
        """How a batch of outputs with and without the prompt becomes one."""
        special = {"guidance_channels": self.guided_channels, "guidance_norm": self.guidance_norm}
        return {"guided": self.guided} | {key: value for key, value in special.items() if value}


def learns_sigma(config: Config) -> bool:
    """Whether a network gives, after its prediction, as many channels of variances."""
    return bool(config.get("learn_sigma")) or config.get("out_channels") == 2 * config.get("in_channels", 0) > 0


def grid_ids(height: int, width: int, columns: int) -> Tensor:
    """(h*w, columns) position ids: rows and columns in the second and third place."""
    ids = torch.zeros(height, width, columns)
    ids[..., 1] += torch.arange(height)[:, None]
    ids[..., 2] += torch.arange(width)[None]
    return ids.reshape(-1, columns)


def too_long(count: int, length: int) -> InputError:
    """For a text that a program has no place for."""
    return InputError(
        f"the text has {count} tokens, the program takes {length}.", "Shorten the prompt, or export with --tokens."
    )


def filled_text(given: Mapping[str, Any], text: str, mask: str, length: int) -> dict[str, Any]:
    """Arguments of one picture with a shorter text (1, S, D) filled to `length`, and the mask that says so."""
    found = given.get(text)
    if not mask or not isinstance(found, Tensor):
        return dict(given)
    missing = length - found.shape[1]
    if missing < 0:
        raise too_long(found.shape[1], length)
    kept = given.get(mask, torch.ones(1, found.shape[1], dtype=torch.bool))
    filled = {text: nn.functional.pad(found, (0, 0, 0, missing)), mask: nn.functional.pad(kept, (0, missing))}
    return {**given, **filled}


def split_batch(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The arguments of each picture of those for a batch, which is as large as the first has it."""
    leaves = [leaf for leaf in pytree.tree_leaves(given) if isinstance(leaf, Tensor) and leaf.ndim]
    batch = leaves[0].shape[0] if leaves else 1
    return [pytree.tree_map(partial(row_of, index, batch), dict(given)) for index in range(batch)]


def row_of(index: int, batch: int, leaf: Any) -> Any:
    """One picture's part of a tensor that has as many as the batch."""
    whole = not isinstance(leaf, Tensor) or not leaf.ndim or leaf.shape[0] != batch
    return leaf if whole else leaf[index : index + 1]
