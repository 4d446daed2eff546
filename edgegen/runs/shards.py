"""Sharded states on disk: every process writes what it holds, any number of processes reads it back.

PyTorch's distributed checkpoint in its safetensors form (its other form keeps a pickle), in a folder `shards-<step>`
that appears whole: it is renamed, with `state.json` inside, when every process has written its part.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from edgegen.errors import InputError
from edgegen.files import has_no_room, sync
from edgegen.runs import parallel

NOTE = "state.json"  # {step, settings, processes, scalars}: written last


def shard_folders(run_dir: Path) -> list[Path]:
    """The whole sharded states of a run, the newest last."""
    found = (path for path in run_dir.glob("shards-*") if re.fullmatch(r"shards-\d+", path.name))
    return sorted(path for path in found if (path / NOTE).is_file())


def read_note(folder: Path) -> dict:
    """Step, settings and processes of a sharded state."""
    try:
        return json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / NOTE} cannot be read: {error}.", f"Delete {folder}.") from None


def write_shards(run_dir: Path, step: int, tensors: dict[str, Tensor], settings: str) -> None:
    """Writes the state of a step from all processes together, then removes older ones; raises alike on all of them."""
    partial, target = run_dir / f"shards-{step:08}.partial", run_dir / f"shards-{step:08}"
    if parallel.rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    parallel.wait()
    error: BaseException | None = None
    try:
        with quiet():
            dcp.save(
                {name: at_least_1d(tensor) for name, tensor in tensors.items()},
                storage_writer=HuggingFaceStorageWriter(str(partial), save_distributed=True),
            )
        if parallel.rank() == 0:
            note = {"step": step, "settings": settings, "processes": parallel.world_size()}
            (partial / NOTE).write_text(json.dumps(note), encoding="utf-8")
            sync(partial)
    except (Exception, dcp.api.CheckpointException) as caught:
        error = caught
    if parallel.any_process(error is not None):
        refuse_(partial, error)
    if parallel.rank() == 0:
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
        for old in run_dir.glob("shards-*"):
            if old != target:
                remove_(old)
    parallel.wait()


def remove_(folder: Path) -> None:
    """Removes a sharded state, the file that makes it look whole first."""
    (folder / NOTE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def refuse_(partial: Path, error: BaseException | None) -> None:
    """Removes what a failed save left and raises, on every process, an OSError that says whether the disk is full."""
    # a failed distributed checkpoint tells of each process: its exception and where that came from
    causes = [failure[0] for failure in getattr(error, "failures", {}).values()] or [error] * (error is not None)
    full = parallel.any_process(any(has_no_room(cause, partial) for cause in causes))
    parallel.wait()
    if parallel.rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
    code = errno.ENOSPC if full else errno.EIO
    raise OSError(
        code, os.strerror(code) if full else str(causes[0] if causes else "another process failed"), str(partial)
    ) from error


def stored_sizes(folder: Path) -> dict[str, torch.Size]:
    """Name to shape of the tensors of a sharded state."""
    return {
        name: meta.size
        for name, meta in HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata.items()
        if isinstance(meta, TensorStorageMetadata)
    }


def read_shards_(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fills tensors, sharded or not, from a sharded state of any number of processes."""
    views = {name: at_least_1d(tensor) for name, tensor in tensors.items()}
    with quiet():
        dcp.load(views, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=parallel.world_size() == 1)


def at_least_1d(tensor: Tensor) -> Tensor:
    """A number as a tensor of one element, sharing its memory: the safetensors form keeps no shape ()."""
    return tensor.detach() if tensor.dim() else tensor.detach().view(1)


class quiet:
    """Silences the notices of the distributed checkpoint, which a user can do nothing about."""

    def __enter__(self) -> None:
        self.caught = warnings.catch_warnings()
        self.caught.__enter__()
        warnings.simplefilter("ignore")
        logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)

    def __exit__(self, *error) -> None:
        self.caught.__exit__(*error)
