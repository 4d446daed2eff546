"""A network from a Python file of the user's: `my_model.py:build`, where build() makes the module."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.foreign.source import Source

KINDS = {
    "float32": torch.float32, "int64": torch.int64, "int32": torch.int32, "bool": torch.bool,
}  # fmt: skip
INPUT = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<shape>\d+(x\d+)*)(:(?P<kind>\w+))?")


def load_module(reference: str, inputs: str = "", constant: tuple[str, ...] = ()) -> Source:
    """Runs `FILE.py:FUNCTION` and takes what it makes: a module, or a pair of a module and example inputs by name.

    inputs: `name=1x4x32x32,timestep=1:int64`, which stands for random ones; needed where the function gives none.
    This runs the user's own file, which is what they ask for; nothing of a model's folder is run.
    """
    path, _, function = reference.rpartition(":")
    if not path or not function.isidentifier():
        raise InputError(f"--module {reference!r} is not FILE.py:FUNCTION.", "Write it as my_model.py:build.")
    made = call(Path(path), function)
    module, examples = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise InputError(f"{reference} gave a {type(module).__name__}, not an nn.Module.", "Return the module.")
    arguments = parse_inputs(inputs) if inputs else examples
    if not isinstance(arguments, Mapping) or not arguments:
        raise InputError(f"{reference} gives no example inputs.", "Return (module, {name: tensor}), or give --inputs.")
    origin = {"kind": "module", "name": Path(path).stem, "function": function}
    return Source("network", module.float(), dict(arguments), origin, constant)


def call(path: Path, function: str) -> Any:
    """What a function of a file gives."""
    if not path.is_file():
        raise InputError(f"{path} does not exist.", "Give --module FILE.py:FUNCTION.")
    spec = importlib.util.spec_from_file_location(f"edgegen_user_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, function, None)):
            raise InputError(f"{path} has no function {function}.", "Name the one that makes the module.")
        return getattr(module, function)()
    except InputError:
        raise
    except Exception as error:  # whatever the user's own code raises
        raise InputError(
            f"{path}:{function} failed: {type(error).__name__}: {error}.", "Run it alone first."
        ) from error
    finally:
        sys.path.remove(str(path.parent))


def parse_inputs(text: str) -> dict[str, Tensor]:
    """`latent=1x4x8x8,mask=1x8:bool` -> tensors: normal numbers, ones for truths, zeros for integers."""
    made: dict[str, Tensor] = {}
    for entry in text.split(","):
        match = INPUT.fullmatch(entry.strip())
        if match is None or (match["kind"] or "float32") not in KINDS:
            raise InputError(
                f"--inputs {entry.strip()!r} is not NAME=SHAPE or NAME=SHAPE:KIND.",
                f"Write latent=1x4x32x32, or timestep=1:int64; kinds: {', '.join(KINDS)}.",
            )
        shape, kind = [int(size) for size in match["shape"].split("x")], KINDS[match["kind"] or "float32"]
        generator = torch.Generator().manual_seed(len(made))
        noise = torch.randn(shape, generator=generator)
        made[match["name"]] = noise if kind is torch.float32 else torch.ones(shape, dtype=kind)
    return made
