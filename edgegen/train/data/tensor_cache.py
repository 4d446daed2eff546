"""Tensors kept by the digest of what they were made from: safetensors shards that are written whole and never changed.

What was written before a kill is found again; a shard's name is a digest of its maker, group and rows.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.files import disk_errors
from edgegen.model.states import open_safetensors, write_tensors

SHARD_BYTES = 2**26
FLUSH_SECONDS = 60.0  # of work that a kill may cost


def weights_digest(module: nn.Module, *told: object) -> str:
    """sha256 of a module's tensors by name and shape, and of the `repr` of what else matters."""
    sha = hashlib.sha256(repr(told).encode())
    for name, tensor in sorted(module.state_dict().items()):
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


class TensorCache:
    """Named tensors of one row each, by digest; rows of a group share their shapes.

    `maker` says what made the rows, such as an encoder's digest: rows of another maker are not seen.
    """

    def __init__(self, folder: Path, maker: str):
        self.folder, self.maker = folder / maker[:16], maker
        self.places: dict[str, tuple[Path, int]] = {}  # digest -> shard and row
        self.groups: dict[str, str] = {}  # digest -> group
        self.pending: dict[str, dict[str, dict[str, Tensor]]] = {}  # group -> digest -> tensors
        self.flushed_at = time.monotonic()
        self._open = lru_cache(256)(lambda path: safe_open(path, "pt"))
        self.rescan_()

    def rescan_(self) -> None:
        """Looks for shards again, those of other processes too; a damaged one is removed, to be made again."""
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                metadata = open_safetensors(path).metadata() or {}
                group, digests = metadata["group"], json.loads(metadata["digests"])
            except (InputError, KeyError, ValueError):
                path.unlink(missing_ok=True)
                continue
            for row, digest in enumerate(digests):
                self.places[digest], self.groups[digest] = (path, row), group

    def __contains__(self, digest: str) -> bool:
        return digest in self.groups

    def add(self, group: str, digest: str, tensors: dict[str, Tensor]) -> None:
        """Keeps one row; it is on the disk after `flush`, which also happens by itself now and then."""
        rows = self.pending.setdefault(group, {})
        rows[digest], self.groups[digest] = tensors, group
        if len(rows) * sum(t.nbytes for t in tensors.values()) >= SHARD_BYTES:
            self._write_(group)
        if time.monotonic() - self.flushed_at > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes everything that is pending."""
        for group in list(self.pending):
            self._write_(group)
        self.flushed_at = time.monotonic()

    def _write_(self, group: str) -> None:
        rows = self.pending.pop(group)
        digests = list(rows)
        name = hashlib.sha256(json.dumps([self.maker, group, digests]).encode()).hexdigest()[:24]
        path = self.folder / f"{group}-{name}.safetensors"
        names = next(iter(rows.values()))
        stacked = {key: torch.stack([rows[digest][key] for digest in digests]) for key in names}
        with disk_errors(self.folder):
            write_tensors(path, stacked, {"maker": self.maker, "group": group, "digests": json.dumps(digests)})
        self.places |= {digest: (path, row) for row, digest in enumerate(digests)}

    def rows(self, digests: Sequence[str]) -> dict[str, Tensor]:
        """The rows of written digests of one group, stacked in this order; read from the disk row by row."""
        parts: dict[str, list[Tensor]] = {}
        for digest in digests:
            path, row = self.places[digest]
            file = self._open(path)
            for key in file.keys():
                parts.setdefault(key, []).append(file.get_slice(key)[row : row + 1])
        return {key: torch.cat(values) for key, values in parts.items()}
