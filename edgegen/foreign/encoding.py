"""A text encoder as its pipeline reads it: the arguments it is given, and only those results that are read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgegen.foreign.families.family import Request
from edgegen.foreign.observe import Seen
from edgegen.foreign.reads import Path, follow
from edgegen.foreign.source import Arguments


def adopt_(holder: nn.Module, module: nn.Module, without: tuple[str, ...] = ()) -> None:
    """Gives a module another's children and parameters under the same names, and so the checkpoint's."""
    for name, child in module.named_children():
        if name not in without:
            holder.add_module(name, child)
    for name, parameter in module.named_parameters(recurse=False):
        holder.register_parameter(name, parameter)


class Encoding(nn.Module):
    """Gives, by name, what is read of an encoder's result; layers that nothing of it needs are not recorded."""

    def __init__(self, encoder: nn.Module, reads: Mapping[Path, str]):
        super().__init__()
        self.__dict__["_whole"], self._reads = encoder, dict(reads)  # not registered: names stay the checkpoint's
        adopt_(self, encoder)

    def forward(self, **given: Any) -> dict[str, Tensor]:
        made = self._whole(**given)
        return {name: follow(made, path) for path, name in self._reads.items()}


def seen_inputs(encoder: nn.Module, seen: Seen) -> Callable[[int], Arguments]:
    """The prompts that the pipeline was seen to give, one after the other."""
    fixed = {"use_cache": False} if takes_cache(encoder) else {}
    return lambda seed: {**seen.calls[seed % len(seen.calls)], **fixed}


def told_reads(seen: Seen) -> list[dict[str, Any]]:
    """What is read, for the manifest."""
    return [{"path": list(path), "output": name} for path, name in seen.reads.items()]


def random_inputs(encoder: Any, tokens: int) -> Callable[[int], Arguments]:
    """Token ids and a mask, cut at another length for each seed, for an encoder without a pipeline."""
    config = encoder.config
    vocabulary = int(getattr(config, "vocab_size", None) or config.text_config.vocab_size)
    fixed = {"use_cache": False} if takes_cache(encoder) else {}

    def inputs(seed: int) -> Arguments:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, vocabulary, (1, tokens), generator=generator)
        return {"input_ids": ids, "attention_mask": Request(1, 1, tokens, seed).mask(), **fixed}

    return inputs


def takes_cache(encoder: nn.Module) -> bool:
    return "use_cache" in inspect.signature(encoder.forward).parameters
