"""An artifact in the place of a network of a pipeline: called as the network is, and its result read as its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from edgegen.bundle import Artifact
from edgegen.callbacks import ArrayFunction
from edgegen.capture.specialize import leaf_names
from edgegen.errors import EdgegenError, InputError
from edgegen.foreign.encoding import filled_ids
from edgegen.foreign.families.family import Family, filled_text, split_batch
from edgegen.foreign.families.registry import family_named
from edgegen.foreign.fixed import content
from edgegen.foreign.observe import bound
from edgegen.foreign.reads import Known
from edgegen.foreign.stand_in import StandIn

Row = dict[str, Any]
AGAIN = "Export it again."
FAR = 4.0  # times the largest latent of verification


class Result(tuple):
    """What a network gives: by place and by name, as diffusers reads it."""

    names: tuple[str, ...]

    def __new__(cls, names: Sequence[str], values: Sequence[Any]) -> Result:
        made = super().__new__(cls, values)
        made.names = tuple(names)
        return made

    def __getattr__(self, name: str) -> Any:
        try:
            return self[self.names.index(name)]
        except ValueError:
            raise AttributeError(name) from None


class ArtifactModule(StandIn):
    """Stands in a pipeline for one of its networks, and runs an artifact of batch 1 for every picture of a batch."""

    def __init__(self, kind: type, config: Any, entry: Mapping[str, Any], artifact: Artifact, run: ArrayFunction):
        super().__init__(kind, config, entry.get("buffers"))
        self.entry, self.artifact, self.run = entry, artifact, run
        self.is_decoder = hasattr(kind, "decode")
        self.signature = inspect.signature(getattr(kind, "decode", None) or kind.forward)
        self.family = family_named(entry.get("family", ""))
        self.notes: list[str] = []  # to tell with the picture

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = bound(self.signature, self, args, kwargs)
        rows, cut = self.rows(given)
        results = [self.one(row) for row in rows]
        names = [spec.name for spec in self.artifact.outputs]
        if self.family is not None and self.family.listed:
            return Result(names, [[result[name] for result in results] for name in names])
        made = {name: cut(torch.cat([result[name] for result in results])) for name in names}
        if self.entry.get("reads"):
            return Known({tuple(read["path"]): made[read["output"]] for read in self.entry["reads"]})
        return Result(names, [made[name] for name in names])

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        """For an autoencoder."""
        return self.forward(*args, **kwargs)

    def rows(self, given: Row) -> tuple[list[Row], Callable[[Tensor], Tensor]]:
        """The arguments of each picture, a shorter text filled to the program's length, and what cuts results."""
        if self.is_decoder:  # whatever its argument is called
            given = {"latent": next(leaf for leaf in pytree.tree_leaves(given) if isinstance(leaf, Tensor))}
        if "input_ids" in given:
            given, cut = filled_ids(given, int(self.entry.get("tokens", 0)), self.artifact.name)
            return split_batch(given), cut
        return (self.pictures(self.family, given) if self.family else split_batch(given)), lambda made: made

    def pictures(self, family: Family, given: Row) -> list[Row]:
        """The arguments of each picture for a transformer of a family."""
        length = next((spec.shape[1] for spec in self.artifact.inputs if spec.name == family.text), 0)
        if family.rows is not None:
            return family.rows(given, length)
        return [filled_text(row, family.text, family.mask, length) for row in split_batch(given)]

    def one(self, row: Row) -> dict[str, Tensor]:
        """One picture's outputs."""
        leaves = {name: leaf for name, leaf in leaf_names(row) if isinstance(leaf, Tensor)}
        self.check_fixed(leaves)
        feed = {spec.name: self.fed(spec.name, leaves).reshape(spec.shape) for spec in self.artifact.inputs}
        self.check_range(feed)
        made = {name: np.array(value) for name, value in self.run(feed).items()}
        if not all(np.isfinite(value).all() for value in made.values()):
            raise EdgegenError(
                f"the {self.artifact.name} on {self.artifact.backend} gave values that are not finite: no picture.",
                "edgegen ranges names the layers that leave fp16; --backend onnx computes in fp32.",
            )
        return {name: torch.from_numpy(value) for name, value in made.items()}

    def check_range(self, feed: Mapping[str, np.ndarray]) -> None:
        """Notes latents far beyond those that a decoder in fp16 was verified with."""
        known = self.entry.get("largest", {})
        for spec in self.artifact.inputs:
            largest, verified = float(np.abs(feed[spec.name]).max()), known.get(spec.name)
            if verified and spec.dtype == "float16" and largest > FAR * verified:
                self.notes.append(
                    f"{spec.name} of the {self.artifact.name} reached {largest:,.0f}, it was verified up to "
                    f"{verified:,.0f} in {self.artifact.backend}'s fp16: compare the picture with --backend onnx."
                )

    def check_fixed(self, leaves: Mapping[str, Tensor]) -> None:
        """Refuses other values of an input that became part of the program."""
        for name, sha256 in self.entry.get("fixed", {}).items():
            if name in leaves and content(leaves[name]) != sha256:
                raise InputError(
                    f"the pipeline gives the {self.artifact.name} another {name} than its program was made with.", AGAIN
                )

    def fed(self, name: str, leaves: Mapping[str, Tensor]) -> np.ndarray:
        """An input of the artifact; sinusoids are computed of what they come from."""
        told = next((s for s in self.entry["sinusoids"] if s["name"] == name), None)
        if told is None:
            if name not in leaves:
                raise InputError(f"the pipeline gives the {self.artifact.name} no {name}.", AGAIN)
            return leaves[name].detach().float().numpy()
        angles = leaves[told["source"]].detach().double().reshape(-1, 1).numpy() * np.array(told["frequencies"])
        waves = {"cos": np.cos(angles), "sin": np.sin(angles)}
        return np.concatenate([waves[key] for key in told["order"].split(",")], 1).astype(np.float32)
