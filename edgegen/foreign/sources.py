"""The networks of a folder as sources: each loaded, with example inputs at one size."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgegen.errors import InputError, unknown
from edgegen.files import digest
from edgegen.foreign.families.family import Request
from edgegen.foreign.families.guess import guessed_inputs
from edgegen.foreign.families.registry import family_of
from edgegen.foreign.folder import Part, list_parts, load_part
from edgegen.foreign.lora import merge_lora_, read_lora
from edgegen.foreign.source import Source

AUTOENCODERS = ("Autoencoder", "VQModel")
TOKENS = 77  # of a text encoder whose family says nothing


@dataclass(frozen=True)
class Size:
    """What a program is made for: pixels, and text tokens (the family's own if 0)."""

    width: int
    height: int
    tokens: int = 0


class Decoding(nn.Module):
    """The decoding half of an autoencoder; its layers keep their names."""

    def __init__(self, autoencoder: Any):
        super().__init__()
        self.__dict__["autoencoder"] = autoencoder  # not registered: names stay the checkpoint's
        for name, child in autoencoder.named_children():
            if name not in ("encoder", "quant_conv"):
                self.add_module(name, child)

    def forward(self, latent: Tensor) -> Tensor:
        return self.autoencoder.decode(latent, return_dict=False)[0]


@dataclass(frozen=True)
class Lora:
    """LoRA weights to merge into the transformer."""

    path: Path
    scale: float = 1.0


def open_sources(folder: Path, size: Size, names: Sequence[str] = (), lora: Lora | None = None) -> list[Source]:
    """Every network of a folder that a phone needs, or those named; encoders of pictures are left out."""
    parts = {part.name: part for part in list_parts(folder)}
    for name in names:
        if name not in parts:
            raise unknown("network", name, tuple(parts))
    transformer = next((p for p in parts.values() if kind_of(p) == "transformer"), None)
    family = family_of(transformer.class_name) if transformer else None
    length = size.tokens or (family.text_length if family else TOKENS)
    chosen = [part for name, part in parts.items() if (not names or name in names) and kind_of(part) != "other"]
    if not chosen:
        raise InputError(f"{folder} holds no network that is deployed.", f"It has: {', '.join(parts)}.")
    scale = compression(parts.values())
    tensors = read_lora(lora.path) if lora else {}
    made = []
    for part in chosen:
        module = load_part(part)
        if lora and kind_of(part) == "transformer":
            merge_lora_(module, tensors, lora.scale)
        made.append(source_of(part, module, Request(size.height // scale, size.width // scale, length)))
    return made


def kind_of(part: Part) -> str:
    """transformer, decoder, text encoder, or other."""
    if part.library == "transformers":
        return (
            "text"
            if "Text" in part.class_name
            or "text_encoder" in part.name
            or "Encoder" in part.class_name
            or part.name == "network"
            else "other"
        )
    if part.class_name.startswith(AUTOENCODERS):
        return "decoder"
    return "transformer" if is_denoiser(part) else "other"


def is_denoiser(part: Part) -> bool:
    """Whether a config is of a network that takes latents."""
    return "in_channels" in part.config or "num_layers" in part.config


def compression(parts: Any) -> int:
    """Pixels a latent stands for."""
    for part in parts:
        if kind_of(part) == "decoder":
            for key in ("block_out_channels", "encoder_block_out_channels", "dim_mult"):
                if isinstance(part.config.get(key), list):
                    return 2 ** (len(part.config[key]) - 1)
    return 8


def source_of(part: Part, module: Any, ask: Request) -> Source:
    """A loaded part with inputs."""
    make = {"transformer": transformer_inputs, "decoder": decoder_inputs, "text": text_inputs}[kind_of(part)]
    inputs, constant, details = make(part, module, ask)
    if kind_of(part) == "decoder":
        module = Decoding(module)
    origin = {
        "kind": "diffusers",
        "name": part.folder.name,
        "class": part.class_name,
        "sha256": digest(part.folder / "config.json")[0],
    }
    return Source(part.name, module, inputs(0), origin, constant, inputs, details)


Made = tuple[Callable[[int], dict[str, Any]], tuple[str, ...], dict[str, Any]]


def with_seed(ask: Request, seed: int) -> Request:
    return Request(ask.height, ask.width, ask.tokens, seed)


def transformer_inputs(part: Part, module: nn.Module, ask: Request) -> Made:
    config, family = dict(module.config), family_of(part.class_name)
    if family is None:
        return (lambda seed: guessed_inputs(module, config, with_seed(ask, seed))), (), {"family": ""}
    return (lambda seed: family.inputs(config, with_seed(ask, seed))), family.constant, family.to_dict()


def decoder_inputs(part: Part, module: nn.Module, ask: Request) -> Made:
    """Latents as the autoencoder's own decode takes them; the manifest tells the scale and shift before it."""
    config = dict(module.config)
    channels = config.get("latent_channels") or config.get("z_dim") or 4
    frames = (1,) if "QwenImage" in part.class_name or "Wan" in part.class_name else ()
    keys = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
    details = {key: config[key] for key in keys if config.get(key) is not None}
    return (
        (lambda seed: {"latent": with_seed(ask, seed).noise(1, channels, *frames, ask.height, ask.width)}),
        (),
        details,
    )


def text_inputs(part: Part, module: nn.Module, ask: Request) -> Made:
    """Token ids and a mask, cut at another length for each seed."""
    size = int(getattr(module.config, "vocab_size", None) or module.config.text_config.vocab_size)
    length = min(ask.tokens, int(getattr(module.config, "max_position_embeddings", ask.tokens) or ask.tokens))
    takes_cache = "use_cache" in inspect.signature(module.forward).parameters

    def inputs(seed: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        made: dict[str, Any] = {"input_ids": torch.randint(0, size, (1, length), generator=generator)}
        made["attention_mask"] = Request(1, 1, length, seed).mask()
        return made | ({"use_cache": False} if takes_cache else {})

    return inputs, (), {"tokens": length}
