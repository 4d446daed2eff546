"""The three networks of a text-to-image model behind one interface, whatever runs them.

Arrays are those of components (rewrite/component.py), batch 1: text (1, T, 1, L), text_mask (1, L, 1, 1),
pooled_text (1, T, 1, 1), latent and velocity (1, C, h, w), image (1, 3, H, W) in [0, 1].
"""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from edgegen.bundle import Bundle
from edgegen.model.blocks import timestep_features
from edgegen.model.checkpoint import make_tokenizers
from edgegen.model.text import TokenIds, Tokenizers
from edgegen.pipeline.artifact import ArrayFunction, open_network

Condition = dict[str, np.ndarray]  # text, text_mask, pooled_text


class Networks(Protocol):
    """What it takes to draw a picture."""

    @property
    def tokenizers(self) -> Tokenizers: ...

    def encode(self, ids: TokenIds) -> Condition: ...

    def velocity(self, latent: np.ndarray, sigma: float, condition: Condition) -> np.ndarray: ...

    def decode(self, latent: np.ndarray) -> np.ndarray: ...


def features(sigma: float, size: int) -> np.ndarray:
    """The transformer's input `timestep_features` (1, F, 1, 1) at one sigma."""
    return timestep_features(torch.tensor([sigma]), size).numpy().reshape(1, size, 1, 1)


def id_feed(ids: TokenIds) -> dict[str, np.ndarray]:
    """The text encoder's inputs: the ids (1, L) of the encoders present."""
    return {f"{name}_ids": value for name, value in (("word", ids.word), ("byte", ids.byte)) if value is not None}


class ArtifactNetworks:
    """The artifacts of one back end; each is opened at its first use."""

    def __init__(self, bundle: Bundle, backend: str, native: bool = False):
        self.bundle, self.backend, self.native = bundle, backend, native
        for name in ("text_encoder", "transformer", "decoder"):
            bundle.programs(name, backend)  # refuses what is missing before anything runs
        self.feature_size = bundle.manifest.timestep_features["size"]

    @cached_property
    def tokenizers(self) -> Tokenizers:
        return make_tokenizers(self.bundle.tokenizer_files())

    def _open(self, name: str) -> ArrayFunction:
        return open_network(self.bundle, name, self.backend, self.native)

    @cached_property
    def _text_encoder(self) -> ArrayFunction:
        return self._open("text_encoder")

    @cached_property
    def _transformer(self) -> ArrayFunction:
        return self._open("transformer")

    @cached_property
    def _decoder(self) -> ArrayFunction:
        return self._open("decoder")

    def encode(self, ids: TokenIds) -> Condition:
        return self._text_encoder(id_feed(ids))

    def velocity(self, latent: np.ndarray, sigma: float, condition: Condition) -> np.ndarray:
        feed = {"latent": latent, "timestep_features": features(sigma, self.feature_size), **condition}
        return self._transformer(feed)["velocity"]

    def decode(self, latent: np.ndarray) -> np.ndarray:
        return self._decoder({"latent": latent})["image"]


def conditions(networks: Networks, prompts: list[str]) -> tuple[list[Condition], list[bool]]:
    """The condition of each prompt, and whether it was cut to fit the encoders."""
    encoded = [networks.tokenizers.encode([prompt]) for prompt in prompts]
    return [networks.encode(ids) for ids in encoded], [bool(ids.truncated[0]) for ids in encoded]
