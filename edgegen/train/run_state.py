"""A training run's folder: `state.safetensors` to resume from and `log.jsonl` to read; no pickle anywhere.

Batches must be functions of (seed, step), so that the step is all the random state there is.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.train import parallel
from edgegen.train.progress import StepReport


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write safetensors so that a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, temporary, metadata)
    os.replace(temporary, path)


class RunState:
    """Saves and restores a module, its optimizer and the step, at most once every `every_s` seconds unless told."""

    def __init__(self, folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, settings: dict, every_s=60.0):
        self.folder, self.module, self.optimizer, self.every_s = folder, module, optimizer, every_s
        self.settings = json.dumps(settings, sort_keys=True, default=str)
        self.saved_at = time.monotonic()
        self.report = StepReport(folder.name, shown=parallel.rank() == 0)
        folder.mkdir(parents=True, exist_ok=True)

    def steps(self, end: int) -> Iterator[int]:
        """The steps left to do after the last saved state, shown on stderr."""
        yield from self.report.track(self.restore_(), end)

    def restore_(self) -> int:
        """Load the last saved state, if any, and return the number of steps already done."""
        path = self.folder / "state.safetensors"
        if not path.is_file():
            return 0
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if metadata["settings"] != self.settings:
            raise InputError(
                f"{path} belongs to a run with other settings: {differences(metadata['settings'], self.settings)}.",
                "Use another run folder, or delete this one.",
            )
        self.module.load_state_dict(_with_prefix(tensors, "module."))
        self._restore_optimizer_(_with_prefix(tensors, "optimizer."))
        return int(metadata["step"])

    def save(self, step: int, force: bool = False) -> None:
        if not force and time.monotonic() - self.saved_at < self.every_s:
            return
        tensors = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
        metadata = {"step": str(step), "settings": self.settings}
        write_tensors(self.folder / "state.safetensors", tensors, metadata)
        self.saved_at = time.monotonic()

    def log(self, step: int, **numbers: float) -> None:
        """Append a line to log.jsonl and show it on stderr."""
        row = {"step": step, "time": round(time.time(), 1), **{k: round(float(v), 6) for k, v in numbers.items()}}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.report.line(" ".join(f"{name} {value:g}" for name, value in row.items() if name != "time"))

    def _restore_optimizer_(self, tensors: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            index, field = name.split(".", 1)
            state.setdefault(int(index), {})[field] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def differences(saved: str, wanted: str) -> str:
    """What differs between two settings in JSON: 'training.batch 4, not 8'."""
    old, new = (flat(json.loads(text)) for text in (saved, wanted))
    return "; ".join(f"{key} {old.get(key, 'absent')}, not {new.get(key, 'absent')}"
                     for key in sorted(old | new) if old.get(key, "absent") != new.get(key, "absent"))


def flat(values: dict, prefix: str = "") -> dict:
    """Nested tables as one, keys joined by dots."""
    items = ((f"{prefix}{key}", value) for key, value in values.items())
    return {k: v for key, value in items for k, v in (flat(value, f"{key}.") if isinstance(value, dict)
                                                      else {key: value}).items()}


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
