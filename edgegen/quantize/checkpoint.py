"""Writes a quantized checkpoint: the folder of any checkpoint, its transformer at one width and in fewer bits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from edgegen.errors import InputError
from edgegen.files import write_json
from edgegen.model.checkpoint import Checkpoint
from edgegen.model.quantization import QuantizationConfig
from edgegen.model.states import as_half
from edgegen.quantize.stored import StoredWeights


def refuse_quantized(checkpoint: Checkpoint) -> None:
    """A checkpoint is quantized once, from its own weights."""
    quantized = checkpoint.config.quantization
    if quantized is not None:
        raise InputError(
            f"checkpoint {checkpoint.config.name} is already quantized: {quantized.method}, "
            f"{quantized.bits:g} bits at width {quantized.width:g}.",
            "Give the checkpoint it was made of.",
        )


def average_bits(weights: StoredWeights) -> float:
    """Bits of a quantized weight's element on average, with palettes and scales."""
    elements = sum(math.prod(weight.shape) for weight in weights.values())
    return 8 * sum(weight.nbytes for weight in weights.values()) / elements


def write_quantized(
    folder: Path,
    source: Checkpoint,
    weights: StoredWeights,
    rest: Mapping[str, Tensor],
    quantization: QuantizationConfig,
) -> None:
    """Fills an empty folder with a checkpoint; `rest` has the parameters that are not quantized, stored in float16."""
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        tensors |= weight.to_tensors(name)
    tensors |= {name: as_half(tensor, name) for name, tensor in rest.items()}
    parts = {"transformer": tensors}
    for part, state in source.states.items():
        if part != "transformer":
            parts[part] = {name: as_half(state[name], name) for name in state}
    for part, stored in parts.items():
        path = folder / f"{part}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in stored.items()}, path)
        path.chmod(0o644)
    (folder / "tokenizer").mkdir()
    for name, data in source.tokenizer_files.items():
        (folder / "tokenizer" / name).write_bytes(data)
    config = replace(source.config, adapters=None, quantization=quantization)
    write_json(folder / "config.json", config.to_dict())
