"""The networks of a folder as sources: each loaded, with example inputs at one size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgegen.errors import InputError, unknown
from edgegen.files import digest
from edgegen.foreign.encoding import Encoding, adopt_, random_inputs, seen_inputs, told_reads
from edgegen.foreign.families.family import Request
from edgegen.foreign.families.guess import guessed_inputs
from edgegen.foreign.families.registry import family_of
from edgegen.foreign.fitting import too_large
from edgegen.foreign.folder import PIPELINE, Part, list_parts, load_part
from edgegen.foreign.lora import merge_lora_, read_lora
from edgegen.foreign.observe import Seen, observe
from edgegen.foreign.source import Source, varied
from edgegen.foreign.stored_palettes import read_palettes
from edgegen.foreign.streamed import Stored
from edgegen.target import Tier

AUTOENCODERS = ("Autoencoder", "VQModel")
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
    seen = observe(folder, (size.width, size.height), size.tokens) if texts and (folder / PIPELINE).is_file() else {}
    transformer = next((p for p in parts.values() if kind_of(p) == "transformer"), None)
    length = text_length(transformer, seen, size)
    scale = compression(parts.values())
    tensors = read_lora(lora.path) if lora else {}
    made = []
    for part in chosen:
        module = load_part(part, streamed=kind_of(part) == "transformer" and not lora)
        if lora and kind_of(part) == "transformer":
            merge_lora_(module, tensors, lora.scale)
        ask = Request(size.height // scale, size.width // scale, length)
        made.append(source_of(part, module, ask, seen.get(part.name)))
    family = family_of(transformer.class_name) if transformer else None
    optional = list(family.optional) if family else []
    return Opened(made, {"max_sequence_length": size.tokens, "left_out": left, "optional": optional})


def text_length(transformer: Part | None, seen: Mapping[str, Seen], size: Size) -> int:
    """Text tokens of a transformer: as its pipeline was seen to give them, else as asked, else its family's own."""
    if transformer is None:
        return size.tokens or TOKENS
    calls = seen[transformer.name].calls if transformer.name in seen else ()
    text = calls[0].get("encoder_hidden_states") if calls else None
    if isinstance(text, Tensor):
        return text.shape[1]
    family = family_of(transformer.class_name)
    return size.tokens or (family.text_length if family else TOKENS)


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
    if kind_of(part) == "decoder":
        module = Decoding(module)
    elif kind_of(part) == "text" and seen is not None:
        module = Encoding(module, seen.reads)
    origin = {
        "kind": "diffusers",
        "name": part.folder.name,
        "class": part.class_name,
        "sha256": digest(part.folder / "config.json")[0],
    }
    return Source(part.name, module, inputs(0), origin, constant, inputs, details, palettes, stored)


Made = tuple[Callable[[int], Mapping[str, Any]], tuple[str, ...], dict[str, Any]]


def with_seed(ask: Request, seed: int) -> Request:
    return Request(ask.height, ask.width, ask.tokens, seed)


def transformer_inputs(part: Part, module: Any, ask: Request, seen: Seen | None) -> Made:
    config, family = dict(module.config), family_of(part.class_name)
    if family is None and seen is not None:
        return (lambda seed: varied(seen.calls[0], seed)), (), {"family": ""}
    if family is None:
        return (lambda seed: guessed_inputs(module, config, with_seed(ask, seed))), (), {"family": ""}
    return (lambda seed: family.inputs(config, with_seed(ask, seed))), family.constant, family.to_dict()


def decoder_inputs(part: Part, module: Any, ask: Request, seen: Seen | None) -> Made:
    """Latents as large as a pipeline gives them to decode; the manifest tells the scale and shift before it."""
    config = dict(module.config)
    channels = config.get("latent_channels") or config.get("z_dim") or 4
    frames = (1,) if "QwenImage" in part.class_name or "Wan" in part.class_name else ()
    keys = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
    details = {key: config[key] for key in keys if config.get(key) is not None}
    scale, shift = details.get("scaling_factor") or 1.0, details.get("shift_factor") or 0.0

    def inputs(seed: int) -> dict[str, Any]:
        noise = with_seed(ask, seed).noise(1, channels, *frames, ask.height, ask.width)
        return {"latent": noise / scale + shift}

    return inputs, (), details


def text_inputs(part: Part, module: Any, ask: Request, seen: Seen | None) -> Made:
    """Prompts as the pipeline was seen to give them; random tokens for an encoder on its own."""
    if seen is not None:
        ids = seen.calls[0].get("input_ids")
        length = ids.shape[1] if isinstance(ids, Tensor) else 0
        return seen_inputs(module, seen), (), {"tokens": length, "reads": told_reads(seen)}
    length = min(ask.tokens, int(getattr(module.config, "max_position_embeddings", ask.tokens) or ask.tokens))
    return random_inputs(module, length), (), {"tokens": length}
