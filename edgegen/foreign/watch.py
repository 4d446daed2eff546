"""How large the numbers are that a module's layers take and give while it runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree


@dataclass
class Peaks:
    """The largest |value| that a layer was given and gave; infinite where one was not finite."""

    kind: str
    taken: float = 0.0
    given: float = 0.0


@contextmanager
def watching(module: nn.Module, peaks: dict[str, Peaks]) -> Iterator[None]:
    """Within it `peaks` has those of every layer without layers of its own that runs, by name."""
    leaves = {name: layer for name, layer in module.named_modules() if not any(layer.children())}
    handles = [layer.register_forward_hook(keeper(name, peaks), with_kwargs=True) for name, layer in leaves.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def keeper(name: str, peaks: dict[str, Peaks]) -> Any:
    """A hook that keeps a layer's largest numbers."""

    def keep(layer: nn.Module, args: Any, kwargs: Any, made: Any) -> None:
        one = peaks.setdefault(name, Peaks(type(layer).__name__))
        one.taken, one.given = max(one.taken, peak_of((args, kwargs))), max(one.given, peak_of(made))

    return keep


def peak_of(values: Any) -> float:
    """The largest |value| of all floating-point tensors; 0 where there is none."""
    floats = [t for t in pytree.tree_leaves(values) if isinstance(t, Tensor) and t.is_floating_point() and t.numel()]
    found = [float(t.detach().abs().max()) for t in floats]
    return max((peak if math.isfinite(peak) else math.inf for peak in found), default=0.0)
