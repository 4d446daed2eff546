"""What stands in a pipeline for one of its networks: the pipeline reads of it what it would read of the network."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from edgegen.capture.specialize import hold_

PLAIN = (bool, int, float, str, list, tuple)  # of an attribute that is no weight


class StandIn(nn.Module):
    """Has a network's configuration, its plain attributes and a few small buffers, and none of its layers."""

    def __init__(self, kind: type, config: Any, buffers: Mapping[str, list[float]] | None = None):
        super().__init__()
        self.kind, self.config = kind, config
        self.dtype, self.device = torch.float32, torch.device("cpu")
        for name, values in (buffers or {}).items():
            hold_(self, name, torch.tensor(values))

    def __getattr__(self, name: str) -> Any:
        """As diffusers has it, an entry of the configuration; else what the class makes of it without weights."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            config = self.__dict__.get("config")
            if name.startswith("_") or config is None:
                raise
            if isinstance(config, Mapping) and name in config:
                return config[name]
            value = getattr(bare(self.kind, config), name, None)
            if not isinstance(value, PLAIN):
                raise
            return value

    def cache_context(self, name: str) -> AbstractContextManager[None]:
        """As a transformer of diffusers has it."""
        return nullcontext()


def bare(kind: Any, config: Any) -> nn.Module:
    """A network without weights."""
    with torch.device("meta"):
        return kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
