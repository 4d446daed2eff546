"""A text encoder as its pipeline reads it: the arguments it is given, and only those results that are read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.foreign.adopt import adopt_
from edgegen.foreign.families.family import Request
from edgegen.foreign.observe import Seen
from edgegen.foreign.reads import Path, follow
from edgegen.foreign.source import Arguments

LONGER = "Shorten the prompt, or export with a larger --tokens."


class Encoding(nn.Module):
    """Gives, by name, what is read of an encoder's result; layers that nothing of it needs are not recorded.

    clear: gives zeros for the tokens that the mask leaves out. Filling before a text, in a causal encoder, attends to
    nothing, which every runtime computes in its own way and no pipeline uses.
    """

    def __init__(self, encoder: nn.Module, reads: Mapping[Path, str], clear: bool = False):
        super().__init__()
        self.__dict__["_whole"], self._reads = encoder, dict(reads)  # not registered: names stay the checkpoint's
        self._clear = clear
        adopt_(self, encoder)

    def forward(self, **given: Any) -> dict[str, Tensor]:
        made = self._whole(**given)
        found = {name: follow(made, path) for path, name in self._reads.items()}
        if not self._clear:
            return found
        kept = given["attention_mask"].float()[..., None]  # (1, S, 1)
        return {name: value * kept if value.shape[:2] == kept.shape[:2] else value for name, value in found.items()}


def fills_before(seen: Seen) -> bool:
    """Whether a pipeline was seen to fill a text before its first token."""
    masks = [call.get("attention_mask") for call in seen.calls]
    return any(isinstance(mask, Tensor) and mask.ndim == 2 and not mask[0, 0] for mask in masks)


def seen_inputs(encoder: nn.Module, seen: Seen, length: int) -> Callable[[int], Arguments]:
    """The prompts that the pipeline was seen to give, one after the other, each filled to `length` tokens."""
    fixed = {"use_cache": False} if takes_cache(encoder) else {}
    calls = [filled_ids(call, length, type(encoder).__name__)[0] for call in seen.calls]
    return lambda seed: {**calls[seed % len(calls)], **fixed}


def filled_ids(given: Arguments, length: int, who: str) -> tuple[dict[str, Any], Callable[[Tensor], Tensor]]:
    """A shorter text made as long as a program's by tokens that its mask leaves out, and what cuts results."""
    ids = given.get("input_ids")
    if not isinstance(ids, Tensor) or ids.shape[1] == length:
        return dict(given), lambda made: made
    count, missing = ids.shape[1], length - ids.shape[1]
    if missing < 0 or "attention_mask" not in given:
        raise InputError(f"the pipeline gives the {who} {count} tokens, its program takes {length}.", LONGER)
    pad = lambda x: nn.functional.pad(x, (0, missing)) if is_text(x, count) else x  # noqa: E731
    cut = lambda x: x[:, :count] if x.shape[1:2] == (length,) else x  # noqa: E731
    return {name: pad(value) for name, value in given.items()}, cut


def is_text(value: Any, count: int) -> bool:
    """Whether an argument has a number for each token."""
    return isinstance(value, Tensor) and value.shape[1:] == (count,)


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
