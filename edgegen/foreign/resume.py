"""What an export of foreign networks goes on by when it was interrupted: the same notes as of our own network's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from edgegen.bundle import tool_versions
from edgegen.chunking import Chunking
from edgegen.errors import VerificationError
from edgegen.foreign.source import Source
from edgegen.journal import Journal, has_notes
from edgegen.manifest import ForeignArtifact
from edgegen.target import BackendTarget, Tier


def settings_of(
    model: str,
    sources: Sequence[Source],
    tier: Tier,
    targets: Sequence[BackendTarget],
    bits: float | None,
    resolution: tuple[int, int],
    chunking: Chunking,
) -> dict[str, Any]:
    """What an interrupted export must have been started with to be gone on with."""
    return {
        "model": model,
        "tier": tier.name,
        "back ends": [asdict(target) for target in targets],
        "bits": bits,
        "resolution": list(resolution),
        "chunks": asdict(chunking),
        "networks": {source.name: content_of(source) for source in sources},
        "versions": tool_versions(),
    }


def content_of(source: Source) -> str:
    """A digest of a network's weights, of what it is given, and of the palettes its weights are made of."""
    seen = hashlib.sha256(type(source.module).__qualname__.encode())
    state = source.module.state_dict() | dict(source.stored.tensors)
    for name, tensor in sorted(state.items()):
        seen.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        seen.update(bytes_of(tensor))
    for leaf in pytree.tree_leaves(dict(source.arguments)):
        seen.update(bytes_of(leaf) if isinstance(leaf, Tensor) else repr(leaf).encode())
    seen.update(repr((source.constant, sorted(source.palettes), source.details)).encode())
    return seen.hexdigest()


def bytes_of(tensor: Tensor) -> Any:
    """The bytes of a tensor, without a copy where it lies in order."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


@contextmanager
def noted(root: Path, settings: Mapping[str, Any]) -> Iterator[Journal]:
    """The notes of what is finished, in the unfinished bundle until it is whole, or has failed. An export that ends
    before says so where artifacts are kept.
    """
    journal = Journal(root, settings, ForeignArtifact)
    try:
        yield journal
    except VerificationError:
        journal.close()
        raise
    except BaseException as error:
        if has_notes(root):
            error.add_note("What was finished is kept: the same command with --resume goes on.")
        raise
    journal.close()
