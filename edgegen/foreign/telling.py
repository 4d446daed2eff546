"""What a manifest says of a folder's pipeline: read from its index, its scheduler and its networks' configurations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgegen.foreign.families.family import Family
from edgegen.foreign.folder import PIPELINE, read_object
from edgegen.foreign.scheduler import named, told_scheduler

Told = dict[str, Any]


def told_pipeline(folder: Path) -> Told:
    """The classes of a pipeline and of its scheduler; empty for the folder of one network."""
    if not (folder / PIPELINE).is_file():
        return {}
    name, scheduler = read_object(folder / PIPELINE).get("_class_name"), told_scheduler(folder)
    told = {"class": name if isinstance(name, str) else "", "scheduler": scheduler}
    return {key: value for key, value in told.items() if value}


def told_transformer(folder: Path, details: Told, scheduler: Told) -> Told:
    """A transformer's entry, as this folder's pipeline samples with it."""
    told = details | named(scheduler)
    index = read_object(folder / PIPELINE) if (folder / PIPELINE).is_file() else {}
    if index.get("is_distilled") is True and told.get("guidance") == "batch":  # klein
        told = {key: value for key, value in told.items() if not key.startswith("guid")} | {"guidance": "none"}
    return told


def told_latents(decoder: Mapping[str, Any], family: Family) -> Told:
    """What a decoder is given: latents * scale + shift, of all channels or of each."""
    buffers = decoder.get("buffers", {})
    if "bn.running_var" in buffers:  # FLUX.2
        scale = (torch.tensor(buffers["bn.running_var"]) + decoder["batch_norm_eps"]).sqrt().tolist()
        return {"packing": family.packing, "scale": scale, "shift": buffers["bn.running_mean"], "of": "packed"}
    if "latents_std" in decoder:  # Qwen-Image
        scale, shift = list(decoder["latents_std"]), list(decoder["latents_mean"])
    else:
        scale, shift = [1 / (decoder.get("scaling_factor") or 1.0)], [decoder.get("shift_factor") or 0.0]
    return {"packing": family.packing, "scale": scale, "shift": shift, "of": "unpacked"}
