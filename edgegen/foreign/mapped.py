"""A network of diffusers around the memory-mapped weights of its folder: nothing is copied that need not be.

fp32 weights are used where they lie in the file. Half ones become fp32 once; of a network that is too large for that
they stay in the file, and the network holds NaN in their place until something streams them (foreign/streamed.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgegen.errors import InputError
from edgegen.foreign.streamed import HELD, Stored
from edgegen.quiet import quietly

STREAMED = 10**9  # half weights of a network from which they stay in their file: 4 GB in fp32
LARGE = 2**16  # numbers of a weight that can stay there
ON_DISK = {torch.float16, torch.bfloat16}


class EmptyWeights(TorchFunctionMode):
    """Within it layers get weights without memory; what a constructor computes is real."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def mapped_state(files: Sequence[Path]) -> dict[str, Tensor]:
    """The tensors of safetensors files, each where it lies in its file."""
    state: dict[str, Tensor] = {}
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                state |= {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} cannot be read: {error}.", "Copy it again from where it was made.") from None
    return state


def load_mapped(
    kind: Any, config: Mapping[str, Any], files: Sequence[Path], streamed: bool = False
) -> nn.Module | None:
    """The network with its weights; with `streamed` the large half ones of a large network are `stored` on it. None
    where names or shapes are others, so that the library's own loader must say what is wrong, or rename them.
    """
    try:
        with EmptyWeights():
            module = quietly(lambda: kind.from_config(dict(config)))
    except Exception:  # whatever a constructor raises: the library's own loader tells
        return None
    state = mapped_state(files)
    own = module.state_dict()
    if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in state.items()}:
        return None
    half = {n: t for n, t in state.items() if t.dtype in ON_DISK}
    kept = streamed and sum(t.numel() for t in half.values()) > STREAMED
    stored = {n: t for n, t in half.items() if kept and is_large(t)}
    taken = {n: HELD.expand(t.shape) if n in stored else as_float(t) for n, t in state.items()}
    module.load_state_dict(taken, assign=True)
    if any(t.is_meta for t in (*module.parameters(), *module.buffers())):
        return None
    module.stored = Stored(stored)
    return module.eval().requires_grad_(False)


def is_large(tensor: Tensor) -> bool:
    """Whether a weight is one that layers multiply with, and not a norm's."""
    return tensor.ndim > 1 and tensor.numel() >= LARGE


def as_float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
