"""Palettes that lie beside a network's weights, read with every entry checked against the weights themselves."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from edgegen.errors import InputError
from edgegen.foreign.folder import Part, read_object
from edgegen.quantize.palette import Palette

FOLDER, TABLES, PLAN = "palettes", "palettes.safetensors", "plan.json"
AGAIN = "Quantize it again."


def read_palettes(part: Part, module: nn.Module) -> dict[str, Palette]:
    """The palettes of a folder that `edgegen quantize` wrote, by parameter name; none where there are none.

    InputError where they are not what the weights are made of.
    """
    folder = part.folder / FOLDER
    if not folder.is_dir():
        return {}
    plan = read_object(folder / PLAN)
    try:
        tensors = load_file(folder / TABLES)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder / TABLES} cannot be read: {error}.", AGAIN) from None
    own = dict(module.named_parameters())
    made = {}
    for name, entry in plan.items():
        bits, shape = shape_of(entry, f"{folder / PLAN}: {name}")
        palette = Palette.from_tensors(name, tensors, bits, shape)
        weight = own.get(name)
        if weight is None or not torch.equal(palette.dense().flatten(), weight.detach().flatten()):
            raise InputError(f"{folder}: the palette of {name} is not what the weights hold.", AGAIN)
        made[name] = palette
    return made


def shape_of(entry: Any, where: str) -> tuple[int, tuple[int, ...]]:
    """Bits and shape of an entry of the plan."""
    bits, shape = (entry.get("bits"), entry.get("shape")) if isinstance(entry, dict) else (None, None)
    whole = isinstance(shape, list) and shape and all(type(n) is int and 0 < n < 2**24 for n in shape)
    if type(bits) is not int or not whole:
        raise InputError(f"{where} does not tell bits and shape.", AGAIN)
    return bits, tuple(shape)
