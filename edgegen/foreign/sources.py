"""The networks of a folder as sources: each loaded, with example inputs at one size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgegen.errors import InputError, unknown
from edgegen.files import digest
from edgegen.foreign.adopt import adopt_
from edgegen.foreign.encoding import Encoding, fills_before, random_inputs, seen_inputs, told_reads
from edgegen.foreign.families.family import Family, Request
from edgegen.foreign.families.guess import guessed_inputs
from edgegen.foreign.families.registry import family_of
from edgegen.foreign.fitting import too_large
from edgegen.foreign.folder import PIPELINE, Part, list_parts, load_part
from edgegen.foreign.lora import merge_lora_, read_lora
from edgegen.foreign.observe import Observed, Seen, observe
from edgegen.foreign.source import Source, varied
from edgegen.foreign.stored_palettes import read_palettes
from edgegen.foreign.streamed import Stored
from edgegen.foreign.telling import told_latents, told_pipeline, told_transformer
from edgegen.target import Tier

AUTOENCODERS = ("Autoencoder", "VQModel")
STATISTICS = 4096  # numbers of a buffer that a manifest keeps
TOKENS = 77  # of a text encoder whose family says nothing


@dataclass(frozen=True)
class Size:
    """What a program is made for: pixels, and text tokens (what a pipeline calls max_sequence_length; its own if 0)."""

    width: int
    height: int
    tokens: int = 0


class Decoding(nn.Module):
    """The decoding half of an autoencoder; its layers keep their names."""

    def __init__(self, autoencoder: Any):
        super().__init__()
        self.__dict__["autoencoder"] = autoencoder  # not registered: names stay the checkpoint's
        adopt_(self, autoencoder, without=("encoder", "quant_conv"))

    def forward(self, latent: Tensor) -> Tensor:
        return self.autoencoder.decode(latent, return_dict=False)[0]


@dataclass(frozen=True)
class Lora:
    """LoRA weights to merge into the transformer."""

    path: Path
    scale: float = 1.0


@dataclass(frozen=True)
class Opened:
    """The networks of a folder that an export takes, and what the manifest says of their pipeline."""

    sources: list[Source]
    details: dict[str, Any] = field(default_factory=dict)


def open_sources(
    folder: Path,
    size: Size,
    names: Sequence[str] = (),
    lora: Lora | None = None,
    tier: Tier | None = None,
    backends: Sequence[str] = (),
) -> Opened:
    """Every network of a folder that a phone needs, or those named; encoders of pictures are left out.

    tier, backends: text encoders that are larger than an app of the tier may hold are left out too, unless named.
    """
    parts = {part.name: part for part in list_parts(folder)}
    for name in names:
        if name not in parts:
            raise unknown("network", name, tuple(parts))
    chosen = [part for name, part in parts.items() if (not names or name in names) and kind_of(part) != "other"]
    texts = [part for part in chosen if kind_of(part) == "text"]
    left = too_large(texts, tier, backends or tier.default_backends) if tier and not names else {}
    chosen = [part for part in chosen if part.name not in left]
    if not chosen:
        raise InputError(f"{folder} holds no network that is deployed.", f"It has: {', '.join(parts)}.")
    is_pipeline = (folder / PIPELINE).is_file()
    observed = observe(folder, (size.width, size.height), size.tokens) if texts and is_pipeline else Observed()
    transformer = next((p for p in parts.values() if kind_of(p) == "transformer"), None)
    told = told_pipeline(folder)
    made = opened_parts(folder, chosen, transformer, size, compression(parts.values()), observed.networks, lora, told)
    family = family_of(transformer.class_name) if transformer else None
    for part, source in zip(chosen, made, strict=True):
        if family and told and kind_of(part) == "decoder":
            told |= {"latents": told_latents(source.details, family)}
    details = {
        "max_sequence_length": size.tokens,
        "left_out": left,
        "optional": list(family.optional) if family else [],
    }
    return Opened(made, {**told, **observed.told, **details})


def opened_parts(
    folder: Path,
    chosen: Sequence[Part],
    transformer: Part | None,
    size: Size,
    scale: int,
    seen: Mapping[str, Seen],
    lora: Lora | None,
    told: Mapping[str, Any],
) -> list[Source]:
    """Parts of a folder loaded, with inputs; scale: pixels a latent stands for. told: of their pipeline."""
    length, made = text_length(transformer, seen, size), []
    tensors = read_lora(lora.path) if lora else {}
    for part in chosen:
        module = load_part(part, streamed=kind_of(part) == "transformer" and not lora)
        if lora and kind_of(part) == "transformer":
            merge_lora_(module, tensors, lora.scale)
        ask = Request(size.height // scale, size.width // scale, length)
        if part.name in seen and kind_of(part) == "text" and transformer is not None:
            ask = replace(ask, tokens=encoder_length(seen[part.name], seen.get(transformer.name), length))
        source = source_of(part, module, ask, seen.get(part.name))
        if kind_of(part) == "transformer":
            source = replace(source, details=told_transformer(folder, source.details, told.get("scheduler", {})))
        made.append(source)
    return made


def text_length(transformer: Part | None, seen: Mapping[str, Seen], size: Size) -> int:
    """Text tokens of a transformer: as its pipeline was seen to give every prompt, else as asked, else its family's."""
    if transformer is None:
        return size.tokens or TOKENS
    lengths = lengths_of(seen.get(transformer.name), "encoder_hidden_states")
    if len(set(lengths)) == 1:
        return lengths[0]
    family = family_of(transformer.class_name)
    return size.tokens or (family.text_length if family else TOKENS)


def lengths_of(seen: Seen | None, name: str) -> list[int]:
    """How many tokens an argument had for each prompt."""
    found = [call.get(name) for call in (seen.calls if seen else ())]
    return [value.shape[1] for value in found if isinstance(value, Tensor)]


def encoder_length(seen: Seen, transformer: Seen | None, tokens: int) -> int:
    """Text tokens of an encoder: of every prompt, or what its pipeline leaves out of them beside the transformer's."""
    lengths, given = lengths_of(seen, "input_ids"), lengths_of(transformer, "encoder_hidden_states")
    if len(set(lengths)) <= 1:
        return max(lengths, default=0)
    return tokens + max((own - left for own, left in zip(lengths, given, strict=False)), default=0)


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


def source_of(part: Part, module: Any, ask: Request, seen: Seen | None = None) -> Source:
    """A loaded part with inputs; `seen` is what its pipeline gives it."""
    make = {"transformer": transformer_inputs, "decoder": decoder_inputs, "text": text_inputs}[kind_of(part)]
    inputs, constant, details = make(part, module, ask, seen)
    palettes, stored = read_palettes(part, module), getattr(module, "stored", Stored())
    family = family_of(part.class_name)
    if kind_of(part) == "decoder":
        module = Decoding(module)
    elif family is not None:
        module = family.prepare(module)
    elif kind_of(part) == "text" and seen is not None:
        module = Encoding(module, seen.reads, fills_before(seen))
    origin = {
        "kind": "diffusers",
        "name": part.folder.name,
        "class": part.class_name,
        "sha256": digest(part.folder / "config.json")[0],
    }
    return Source(part.name, module, inputs(0), origin, constant, inputs, details, palettes, stored)


Made = tuple[Callable[[int], Mapping[str, Any]], tuple[str, ...], dict[str, Any]]


def transformer_inputs(part: Part, module: Any, ask: Request, seen: Seen | None) -> Made:
    config, family = dict(module.config), family_of(part.class_name)
    if family is None and seen is not None:
        return (lambda seed: varied(seen.calls[0], seed)), (), {"family": ""}
    if family is None:
        return (lambda seed: guessed_inputs(module, config, replace(ask, seed=seed))), (), {"family": ""}

    def inputs(seed: int) -> dict[str, Any]:
        made = family.inputs(config, replace(ask, seed=seed))
        return made | settled(made, family, seen)

    return inputs, family.constant, family.to_dict(config)


def settled(made: Mapping[str, Any], family: Family, seen: Seen | None) -> dict[str, Any]:
    """Of a family's inputs, those that become part of the program, as the pipeline was seen to give them."""
    given = seen.calls[0] if seen else {}
    known = {name: value for name, value in given.items() if name in made}
    return {name: value for name, value in known.items() if name in family.constant or not has_tensor(value)}


def has_tensor(value: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))


def decoder_inputs(part: Part, module: Any, ask: Request, seen: Seen | None) -> Made:
    """Latents as large as a pipeline gives them to decode; the manifest tells the scale and shift before it."""
    config = dict(module.config)
    channels = config.get("latent_channels") or config.get("z_dim") or 4
    frames = (1,) if "QwenImage" in part.class_name or "Wan" in part.class_name else ()
    keys = ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "batch_norm_eps")
    details = {key: config[key] for key in keys if config.get(key) is not None}
    details["buffers"] = small_buffers(module)
    scale, shift = spread(details)

    def inputs(seed: int) -> dict[str, Any]:
        noise = replace(ask, seed=seed).noise(1, channels, *frames, ask.height, ask.width)
        wide = (1, -1, *(1 for _ in noise.shape[2:]))
        return {"latent": noise * scale.view(wide) + shift.view(wide)}

    return inputs, (), details


def small_buffers(module: nn.Module) -> dict[str, list[float]]:
    """Statistics beside a network's weights, such as FLUX.2's of its latents, which its pipeline reads."""
    kept = {name: buffer for name, buffer in module.named_buffers() if buffer.is_floating_point()}
    return {name: buffer.tolist() for name, buffer in kept.items() if buffer.ndim == 1 and len(buffer) <= STATISTICS}


def spread(details: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Deviation and mean of latents before they are decoded, of each channel or of all."""
    if "latents_std" in details:
        return torch.tensor(details["latents_std"]), torch.tensor(details["latents_mean"])
    mean, variance = (details["buffers"].get(f"bn.running_{name}") for name in ("mean", "var"))
    if variance:  # of packed latents
        return torch.tensor(variance).mean().sqrt(), torch.tensor(mean).mean()
    return torch.tensor(1 / (details.get("scaling_factor") or 1.0)), torch.tensor(details.get("shift_factor") or 0.0)


def text_inputs(part: Part, module: Any, ask: Request, seen: Seen | None) -> Made:
    """Prompts as the pipeline was seen to give them; random tokens for an encoder on its own."""
    if seen is not None:
        return seen_inputs(module, seen, ask.tokens), (), {"tokens": ask.tokens, "reads": told_reads(seen)}
    length = min(ask.tokens, int(getattr(module.config, "max_position_embeddings", ask.tokens) or ask.tokens))
    return random_inputs(module, length), (), {"tokens": length}
