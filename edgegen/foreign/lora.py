"""LoRA weights of diffusers and peft merged into a network before it is recorded; every key must find its layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.model.states import pickle_error

PREFIXES = ("base_model.model.", "transformer.", "unet.", "diffusion_model.", "model.")
DOWN, UP = (
    (".lora_A.weight", ".lora.down.weight", ".lora_down.weight"),
    (".lora_B.weight", ".lora.up.weight", ".lora_up.weight"),
)
ALPHA = ".alpha"
LISTED = 8


def read_lora(path: Path) -> dict[str, Tensor]:
    """The tensors of a LoRA file, or of the one in a folder; a pickle is refused."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if not files:
        for pickle in sorted([*path.glob("*.bin"), *path.glob("*.pt")]):
            raise pickle_error(pickle)
        raise InputError(f"{path} has no LoRA weights (.safetensors).", "Give a file or folder of safetensors.")
    if files[0].suffix != ".safetensors":
        raise pickle_error(files[0])
    try:
        return {name: tensor for file in files for name, tensor in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read: {error}.", "Copy it again.") from None


@torch.no_grad()
def merge_lora_(module: nn.Module, tensors: Mapping[str, Tensor], scale: float = 1.0) -> int:
    """Adds scale * alpha / rank * B A to the weights of a network, in place; returns how many layers changed.

    Keys that find no layer, and pairs of which one is missing, are an error that lists them: nothing is changed then.
    """
    layers, strangers = pairs(module, tensors)
    if strangers or not layers:
        more = f" and {len(strangers) - LISTED} more" if len(strangers) > LISTED else ""
        raise InputError(
            f"LoRA keys that find no layer of {type(module).__name__}: {', '.join(strangers[:LISTED]) or 'all'}{more}.",
            "Give a LoRA of this very network.",
        )
    for name, (down, up, alpha) in layers.items():
        weight = module.get_parameter(f"{name}.weight")
        factor = scale * (1.0 if alpha is None else float(alpha) / down.shape[0])
        change = up.float().flatten(1) @ down.float().flatten(1)
        if change.numel() != weight.numel():
            raise InputError(
                f"the LoRA of {name} is {tuple(change.shape)}, the layer {tuple(weight.shape)}.",
                "Give a LoRA of this very network.",
            )
        weight += factor * change.reshape(weight.shape).to(weight.dtype)
    return len(layers)


Pair = tuple[Tensor, Tensor, Tensor | None]


def pairs(module: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Pair], list[str]]:
    """Down and up matrices by layer, and the keys that belong to none."""
    known = {name for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    found: dict[str, dict[str, Tensor]] = {}
    strangers = []
    for key, tensor in tensors.items():
        kind, base = split_key(key)
        layer = layer_of(base, known) if kind else None
        if layer is None or kind is None:
            strangers.append(key)
        else:
            found.setdefault(layer, {})[kind] = tensor
    strangers += [name for name, parts in found.items() if not {"down", "up"} <= parts.keys()]
    whole = {n: (p["down"], p["up"], p.get("alpha")) for n, p in found.items() if {"down", "up"} <= p.keys()}
    return whole, sorted(strangers)


def split_key(key: str) -> tuple[str | None, str]:
    """What a key is of its layer, and the layer's name in it."""
    for kind, endings in (("down", DOWN), ("up", UP), ("alpha", (ALPHA,))):
        for ending in endings:
            if key.endswith(ending):
                return kind, key.removesuffix(ending)
    return None, key


def layer_of(base: str, known: set[str]) -> str | None:
    """The layer a key means: its name with or without what savers put before it."""
    for prefix in ("", *PREFIXES):
        name = base.removeprefix(prefix)
        if name in known:
            return name
    return None
