"""The configuration of a checkpoint, read from JSON with every key and type checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated

from edgegen.errors import InputError, brief
from edgegen.folders import FILES
from edgegen.model.adapters import AdapterConfig
from edgegen.model.autoencoder import AutoencoderConfig
from edgegen.model.config import DiTConfig
from edgegen.model.quantization import QuantizationConfig
from edgegen.model.sampler import SamplerConfig
from edgegen.model.text import TextConfig
from edgegen.schema import Name, Size, Text, from_values

FORMAT_VERSION = 1
PROMPTS = ("a red heart", "a yellow star", "a cat face", "a bicycle")


@dataclass(frozen=True)
class CheckpointConfig:
    """What config.json says; `prompts` are some the model was trained on, used to verify and to draw samples."""

    name: Name
    transformer: DiTConfig
    text: TextConfig
    autoencoder: AutoencoderConfig
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    prompts: Annotated[tuple[Text, ...], Size(1, 4096)] = PROMPTS
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
        """Checks types, ranges, unknown and missing keys at every level; `files` is the folder's own (folders.py)."""
        version = values.get("format_version")
        if version != FORMAT_VERSION or isinstance(version, bool):
            raise InputError(
                f"format_version is {brief(version)}, this edgegen reads {FORMAT_VERSION}.",
                "Use the edgegen that wrote it.",
            )
        return from_values(cls, {key: value for key, value in values.items() if key not in ("format_version", FILES)})
