"""A training run's folder: a state to resume from and `log.jsonl` to read; no pickle anywhere.

The state is `state.safetensors`, or a folder `shards-<step>` where the model is sharded over processes; the newer one
counts. Batches must be functions of (seed, step), so that the step is all the random state and data cursor there is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from edgegen.errors import EdgegenError, InputError
from edgegen.files import free_bytes, has_no_room
from edgegen.model.states import write_tensors
from edgegen.runs import parallel, shards
from edgegen.runs.progress import StepReport
from edgegen.runs.scalars import Scalars

STATE = "state.safetensors"
SAVE_SECONDS = 60.0  # of work that a kill may cost


def state_kept(path: Path) -> EdgegenError:
    """The error of a state that found no room; what was saved before is still there."""
    kept = saved_steps(path.parent)
    return EdgegenError(
        f"the disk of {path.parent} is full or limits files ({free_bytes(path.parent) / 2**20:.1f} MiB free): "
        f"{path.name} was not written.",
        f"The state of step {kept} is kept; free some space and start again to resume from it."
        if kept
        else "Free some space and start again.",
    )


def newest(folder: Path) -> Path | None:
    """What a run is resumed from: `state.safetensors` or a folder of shards, whichever has seen more steps."""
    candidates = [path for path in (folder / STATE, *shards.shard_folders(folder)) if path.exists()]
    return max(candidates, key=lambda path: int(read_metadata(path)["step"]), default=None)


def read_metadata(path: Path) -> dict[str, Any]:
    """`step` and `settings` of a saved state."""
    if path.is_dir():
        return shards.read_note(path)
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def saved_steps(folder: Path) -> int:
    """The number of steps that a run's saved state has seen; 0 without one."""
    path = newest(folder)
    return int(read_metadata(path)["step"]) if path else 0


def saved_settings(folder: Path) -> dict[str, Any] | None:
    """The settings of a run's saved state, if there is one."""
    path = newest(folder)
    return json.loads(read_metadata(path)["settings"]) if path else None


def state_folders(run_dir: Path) -> list[Path]:
    """The folders of a run that hold a saved state: its own, or one for each width."""
    inner = sorted(path.parent for path in run_dir.glob(f"*/{STATE}"))
    return [run_dir] if newest(run_dir) else inner


class RunState:
    """Saves and restores a module, its optimizer and the step, at most once every `every_s` seconds unless told.

    `every_s` is `SAVE_SECONDS` if it is None; `sharded` writes from all processes.
    """

    def __init__(
        self,
        folder: Path,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: dict,
        every_s: float | None = None,
        sharded: bool = False,
        scalars: Scalars | None = None,
    ):
        self.folder, self.module, self.optimizer = folder, module, optimizer
        self.every_s = SAVE_SECONDS if every_s is None else every_s
        self.settings = json.dumps(settings, sort_keys=True, default=str)
        self.sharded, self.scalars = sharded, scalars
        self.saved_at = time.monotonic()
        self.report = StepReport(folder.name, shown=parallel.rank() == 0)
        folder.mkdir(parents=True, exist_ok=True)

    def steps(self, end: int) -> Iterator[int]:
        """The steps left to do after the last saved state, shown on stderr."""
        yield from self.report.track(self.restore_(), end)

    def restore_(self) -> int:
        """Load the last saved state, if any, and return the number of steps already done."""
        path = newest(self.folder)
        if path is None:
            return 0
        metadata = read_metadata(path)
        saved = json.dumps(json.loads(metadata["settings"]), sort_keys=True)
        if saved != self.settings:
            raise InputError(
                f"{path} belongs to a run with other settings: {differences(saved, self.settings)}.",
                "Use another run folder, or delete this one.",
            )
        if path.is_dir():
            self._restore_shards_(path)
        else:
            self._restore_file_(path)
        return int(metadata["step"])

    def save(self, step: int, force: bool = False) -> None:
        """Saves when it is time; where states are sharded every process must call this at every step."""
        if not self.sharded:
            if parallel.rank() == 0 and (force or time.monotonic() - self.saved_at >= self.every_s):
                self._write_file(step, self.tensors())
                self.saved_at = time.monotonic()
            return
        if not parallel.broadcast(force or time.monotonic() - self.saved_at >= self.every_s):
            return
        try:
            shards.write_shards(self.folder, step, self.tensors(), self.settings)
        except OSError as error:
            if has_no_room(error, self.folder):
                raise state_kept(self.folder / f"shards-{step:08}") from error
            raise EdgegenError(f"cannot save step {step} in {self.folder}: {error}.") from error
        self.saved_at = time.monotonic()

    def finish(self, step: int) -> None:
        """Puts one `state.safetensors`, as other stages and other versions read it, in the place of the shards."""
        if not self.sharded:
            return
        gathered = {name: parallel.gather(tensor) for name, tensor in self.tensors().items()}
        if parallel.rank() == 0:
            self._write_file(step, gathered)
            for folder in shards.shard_folders(self.folder):
                shards.remove_(folder)
        parallel.wait()

    def tensors(self) -> dict[str, Tensor]:
        """Everything a state consists of, by name."""
        tensors = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
        return tensors

    def log(self, step: int, **numbers: float) -> None:
        """Append a line to log.jsonl and show it on stderr."""
        row = {"step": step, "time": round(time.time(), 1), **{k: round(float(v), 6) for k, v in numbers.items()}}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.report.line(" ".join(f"{name} {value:g}" for name, value in row.items() if name != "time"))
        if self.scalars is not None:
            self.scalars.add(step, numbers)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Keeps a picture (H, W, 3) uint8 of a step, where TensorBoard is used."""
        if self.scalars is not None:
            self.scalars.add_picture(step, name, picture)

    def _write_file(self, step: int, tensors: dict[str, Tensor]) -> None:
        metadata = {"step": str(step), "settings": self.settings}
        write_tensors(self.folder / STATE, tensors, metadata, state_kept)

    def _restore_file_(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            current = self.module.state_dict()
            check_names(path, {n.removeprefix("module.") for n in names if n.startswith("module.")}, set(current))
            with torch.no_grad():
                for name, tensor in current.items():
                    tensor.copy_(parallel.like(file.get_tensor(f"module.{name}"), tensor))
            state = {name: file.get_tensor(name) for name in sorted(names) if name.startswith("optimizer.")}
        self._restore_optimizer_(state)

    def _restore_shards_(self, path: Path) -> None:
        sizes = shards.stored_sizes(path)
        current = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        check_names(path, {name for name in sizes if name.startswith("module.")}, set(current))
        parameters = self._parameters()
        state: dict[str, Tensor] = {}
        for name, size in sizes.items():
            if name.startswith("optimizer."):
                parameter = parameters[int(name.split(".")[1])]
                of_parameter = tuple(size) == tuple(parameter.shape) and not name.endswith(".step")
                state[name] = torch.zeros_like(parameter) if of_parameter else torch.zeros(())
        shards.read_shards_(path, current | state)
        self._restore_optimizer_(state)

    def _restore_optimizer_(self, tensors: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        parameters = self._parameters()
        for name, tensor in tensors.items():
            _, index, field = name.split(".", 2)
            if tensor.dim() and not isinstance(tensor, DTensor):
                tensor = parallel.like(tensor, parameters[int(index)])
            state.setdefault(int(index), {})[field] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def check_names(path: Path, stored: set[str], wanted: set[str]) -> None:
    """Refuses a state of another module."""
    if stored != wanted:
        missing, unexpected = sorted(wanted - stored)[:3], sorted(stored - wanted)[:3]
        raise InputError(
            f"{path} is of another configuration: missing {missing}, unexpected {unexpected}.",
            "Use another run folder, or delete this one.",
        )


def differences(saved: str, wanted: str) -> str:
    """What differs between two settings in JSON: 'training.batch 4, not 8'."""
    old, new = (flatten_table(json.loads(text)) for text in (saved, wanted))
    return "; ".join(
        f"{key} {old.get(key, 'absent')}, not {new.get(key, 'absent')}"
        for key in sorted(old | new)
        if old.get(key, "absent") != new.get(key, "absent")
    )


def flatten_table(values: dict, prefix: str = "") -> dict:
    """Nested tables as one, keys joined by dots."""
    items = ((f"{prefix}{key}", value) for key, value in values.items())
    return {
        k: v
        for key, value in items
        for k, v in (flatten_table(value, f"{key}.") if isinstance(value, dict) else {key: value}).items()
    }
