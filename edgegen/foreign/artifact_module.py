"""An artifact in the place of a network of a pipeline: called as the network is, and its result read as its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgegen.bundle import Artifact
from edgegen.callbacks import ArrayFunction
from edgegen.capture.specialize import leaf_names
from edgegen.errors import InputError
from edgegen.foreign.observe import bound
from edgegen.foreign.reads import Known


class Result(tuple):
    """What a network gives: by place and by name, as diffusers reads it."""

    names: tuple[str, ...]

    def __new__(cls, names: Sequence[str], values: Sequence[Tensor]) -> Result:
        made = super().__new__(cls, values)
        made.names = tuple(names)
        return made

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[self.names.index(name)]
        except ValueError:
            raise AttributeError(name) from None


class ArtifactModule(nn.Module):
    """Stands in a pipeline for one of its networks, and runs an artifact of batch 1 for every picture of a batch."""

    def __init__(self, kind: type, config: Any, entry: Mapping[str, Any], artifact: Artifact, run: ArrayFunction):
        super().__init__()
        self.config, self.entry, self.artifact, self.run = config, entry, artifact, run
        self.signature = inspect.signature(getattr(kind, "decode", None) or kind.forward)
        self.is_decoder = hasattr(kind, "decode")
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = bound(self.signature, self, args, kwargs)
        leaves = {name: leaf for name, leaf in leaf_names(given) if isinstance(leaf, Tensor)}
        if self.is_decoder:  # whatever its argument is called
            leaves = {"latent": next(iter(leaves.values()))}
        leaves, cut = self.filled(leaves)
        batch = max((leaf.shape[0] for leaf in leaves.values() if leaf.ndim), default=1)
        rows = [self.one({n: at(leaf, i, batch) for n, leaf in leaves.items()}) for i in range(batch)]
        names = [spec.name for spec in self.artifact.outputs]
        made = {name: cut(torch.cat([row[name] for row in rows])) for name in names}
        if self.entry.get("reads"):
            return Known({tuple(read["path"]): made[read["output"]] for read in self.entry["reads"]})
        return Result(names, [made[name] for name in names])

    def filled(self, leaves: dict[str, Tensor]) -> tuple[dict[str, Tensor], Callable[[Tensor], Tensor]]:
        """A shorter text made as long as the program's by tokens that its mask leaves out, and what cuts results."""
        ids, length = leaves.get("input_ids"), int(self.entry.get("tokens", 0))
        if ids is None or ids.shape[1] == length:
            return leaves, lambda made: made
        count, missing = ids.shape[1], length - ids.shape[1]
        if missing < 0 or "attention_mask" not in leaves:
            raise InputError(
                f"the pipeline gives the {self.artifact.name} {count} tokens, the program takes {length}.",
                "Export it again.",
            )
        pad = lambda x: nn.functional.pad(x, (0, missing)) if x.shape[1:] == (count,) else x  # noqa: E731
        cut = lambda x: x[:, :count] if x.shape[1:2] == (length,) else x  # noqa: E731
        return {name: pad(leaf) for name, leaf in leaves.items()}, cut

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        """For an autoencoder."""
        return self.forward(*args, **kwargs)

    def cache_context(self, name: str) -> AbstractContextManager[None]:
        """As a transformer of diffusers has it."""
        return nullcontext()

    def one(self, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One picture's outputs."""
        made = self.run({spec.name: self.fed(spec.name, leaves).reshape(spec.shape) for spec in self.artifact.inputs})
        return {name: torch.from_numpy(np.array(value)) for name, value in made.items()}

    def fed(self, name: str, leaves: Mapping[str, Tensor]) -> np.ndarray:
        """An input of the artifact; sinusoids are computed of what they come from."""
        told = next((s for s in self.entry["sinusoids"] if s["name"] == name), None)
        if told is None:
            if name not in leaves:
                raise InputError(f"the pipeline gives the {self.artifact.name} no {name}.", "Export it again.")
            return leaves[name].detach().float().numpy()
        angles = leaves[told["source"]].detach().double().reshape(-1, 1).numpy() * np.array(told["frequencies"])
        waves = {"cos": np.cos(angles), "sin": np.sin(angles)}
        return np.concatenate([waves[key] for key in told["order"].split(",")], 1).astype(np.float32)


def at(leaf: Tensor, index: int, batch: int) -> Tensor:
    """One picture's part of a tensor that has as many as the batch."""
    return leaf[index : index + 1] if leaf.ndim and leaf.shape[0] == batch else leaf
