"""The configuration of a checkpoint, read from JSON with every key and type checked."""

from __future__ import annotations

import difflib
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, get_args, get_origin, get_type_hints

from edgegen.errors import InputError
from edgegen.model.adapters import AdapterConfig
from edgegen.model.autoencoder import AutoencoderConfig
from edgegen.model.config import DiTConfig
from edgegen.model.quantization import QuantizationConfig
from edgegen.model.sampler import SamplerConfig
from edgegen.model.text import EncoderConfig, TextConfig

FORMAT_VERSION = 1
PROMPTS = ("a red heart", "a yellow star", "a cat face", "a bicycle")


@dataclass(frozen=True)
class CheckpointConfig:
    """What config.json says; `prompts` are some the model was trained on, used to verify and to draw samples."""

    name: str
    transformer: DiTConfig
    text: TextConfig
    autoencoder: AutoencoderConfig
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    prompts: tuple[str, ...] = PROMPTS
    adapters: AdapterConfig | None = None  # few-step distillation, beside the base's weights
    quantization: QuantizationConfig | None = None  # the transformer is stored at one width, in fewer bits

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", tuple(self.prompts))
        if self.transformer.text_dim != self.text.width:
            raise InputError(
                f"transformer.text_dim {self.transformer.text_dim} differs from text.width {self.text.width}.",
                "Make them equal.",
            )
        if self.transformer.in_channels != self.autoencoder.latent_channels:
            raise InputError(
                f"transformer.in_channels {self.transformer.in_channels} differs from "
                f"autoencoder.latent_channels {self.autoencoder.latent_channels}.",
                "Make them equal.",
            )
        for width in self.adapters.widths if self.adapters else ():
            self.transformer.at(width)  # refuses an unknown one
        if self.quantization is not None:
            self.transformer.at(self.quantization.width)

    @property
    def pixels_per_token(self) -> int:
        """Pixels on a side of one token."""
        return self.transformer.patch * self.autoencoder.downscale

    @property
    def resolution(self) -> tuple[int, int]:
        """Pixels (width, height) the model was trained at."""
        rows, columns = self.transformer.grid
        return columns * self.pixels_per_token, rows * self.pixels_per_token

    def latent_size(self, resolution: tuple[int, int]) -> tuple[int, int]:
        """Latent (height, width) of a picture (width, height); what does not fit is refused and the nearest named."""
        side = self.pixels_per_token
        grid = (resolution[1] // side, resolution[0] // side)
        if (grid[1] * side, grid[0] * side) != tuple(resolution) or not self.transformer.fits(grid):
            near = self.transformer.nearest_grid((round(resolution[1] / side), round(resolution[0] / side)))
            raise InputError(
                f"resolution {resolution[0]}x{resolution[1]} does not fit: a token is {side}x{side} pixels, rows and "
                f"columns of tokens must be even and their product a multiple of {self.transformer.blocks}.",
                f"The nearest that fits is {near[1] * side}x{near[0] * side}.",
            )
        return grid[0] * self.transformer.patch, grid[1] * self.transformer.patch

    def to_dict(self) -> dict:
        adapters = {} if self.adapters is None else {"adapters": asdict(self.adapters)}
        quantization = {} if self.quantization is None else {"quantization": asdict(self.quantization)}
        return {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "transformer": self.transformer.to_dict(),
            "text": asdict(self.text),
            "autoencoder": asdict(self.autoencoder),
            "sampler": asdict(self.sampler),
            "prompts": list(self.prompts),
            **adapters,
            **quantization,
        }

    @classmethod
    def from_dict(cls, values: dict) -> CheckpointConfig:
        """Checks types, unknown and missing keys at every level."""
        values = dict(values)
        version = values.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise InputError(
                f"format_version is {version!r}, this edgegen reads {FORMAT_VERSION}.", "Use the edgegen that wrote it."
            )
        for key, kind in (
            ("transformer", DiTConfig),
            ("text", TextConfig),
            ("autoencoder", AutoencoderConfig),
            ("sampler", SamplerConfig),
            ("adapters", AdapterConfig),
            ("quantization", QuantizationConfig),
        ):
            if key in values:
                values[key] = from_values(kind, values[key], key)
        return from_values(cls, values, "")


def from_values(kind: type, values: Any, where: str) -> Any:
    """A config dataclass from parsed JSON; a wrong type, an unknown or a missing key is an error that names it."""
    at = f"{where}." if where else ""
    if not isinstance(values, dict):
        raise InputError(f"{where} must be an object, found {values!r}.")
    known, hints = {f.name: f for f in fields(kind)}, get_type_hints(kind)
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1, cutoff=0.4)
            raise InputError(
                f"unknown key {at}{key}.", f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}."
            )
    for name, f in known.items():
        if name not in values:
            if f.default is MISSING and f.default_factory is MISSING:
                raise InputError(f"{at}{name} is missing.")
            continue
        check_type(values[name], hints[name], f"{at}{name}")
    if kind is TextConfig:
        values = values | {
            name: from_values(EncoderConfig, values[name], f"{at}{name}")
            for name in ("word", "byte")
            if values.get(name) is not None
        }
    try:
        return kind(**values)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"{where or 'config'} is wrong: {error}.") from error


def check_type(value: Any, kind: Any, where: str) -> None:
    """Refuses a JSON value that is not of a field's type; types of configurations are checked on their own."""
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        if not isinstance(value, list | tuple):
            raise InputError(f"{where} must be a list of {inner.__name__}, found {value!r}.")
        for item in value:
            check_type(item, inner, f"each of {where}")
        return
    if get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise InputError(f"{where} must be an object, found {value!r}.")
        for name, item in value.items():
            check_type(item, get_args(kind)[1], f"{where}.{name}")
        return
    numbers: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}
    accepted = numbers.get(kind)
    if accepted and (not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool)):
        raise InputError(f"{where} must be {kind.__name__}, found {value!r}.")
