"""Runs a .pte file with ExecuTorch's own runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def open_executorch(path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> Run:
    """A function from inputs by name to outputs by name; a program knows only their order."""
    from executorch.runtime import Runtime, Verification

    program = Runtime.get().load_program(path, verification=Verification.Minimal)
    method = program.load_method("forward")

    def run(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        made = method.execute([torch.from_numpy(np.ascontiguousarray(feed[name])) for name in inputs])
        return {name: value.numpy().copy() for name, value in zip(outputs, made, strict=True)}  # memory is reused

    return run
