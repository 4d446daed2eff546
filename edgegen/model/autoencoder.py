"""The picture autoencoder: 8x down to 8 channels, built of conv, ReLU and pixel shuffle alone so that it deploys as is.

Shapes: B batch, C latent channels, h = H/8, w = W/8.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.schema import Range, Size

Widths = Annotated[tuple[Annotated[int, Range(1, 4096)], ...], Size(1, 6)]
Depths = Annotated[tuple[Annotated[int, Range(0, 64)], ...], Size(1, 6)]


@dataclass(frozen=True)
class AutoencoderConfig:
    """Widths go from the picture to the latent in the encoder, from the latent to the picture in the decoder."""

    latent_channels: Annotated[int, Range(1, 1024)] = 8
    # the encoder's first, free reduction; each width after the first halves the grid again
    unshuffle: Annotated[int, Range(1, 64)] = 4
    encoder_widths: Widths = (48, 96)
    encoder_depths: Depths = (2, 2)  # residual blocks at each width
    decoder_widths: Widths = (128, 64, 24)  # each width is followed by a doubling of the grid
    decoder_depths: Depths = (2, 2, 1)
    separable_decoder: bool = False  # depthwise and 1x1 convolutions instead of full ones: a fifth of the weights

    def __post_init__(self):
        for name in ("encoder_widths", "encoder_depths", "decoder_widths", "decoder_depths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists when read from JSON
        if len(self.encoder_widths) != len(self.encoder_depths) or len(self.decoder_widths) != len(self.decoder_depths):
            raise InputError("Every autoencoder width needs one depth.", "Give widths and depths of equal length.")
        down = self.unshuffle * 2 ** (len(self.encoder_widths) - 1)
        if down != self.downscale:
            raise InputError(
                f"The encoder shrinks {down}x and the decoder grows {self.downscale}x.", "Make both factors equal."
            )

    @property
    def downscale(self) -> int:
        """Pixels on a side of one latent cell."""
        return 2 ** len(self.decoder_widths)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), starting as the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class SeparableBlock(nn.Module):
    """x + project(relu(depthwise(relu(expand(x))))), an inverted residual without norms, starting as the identity."""

    def __init__(self, width: int, expansion: int = 2):
        super().__init__()
        inner = expansion * width
        self.expand = nn.Conv2d(width, inner, 1)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.project = nn.Conv2d(inner, width, 1)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(F.relu(self.depthwise(F.relu(self.expand(x)))))


class Encoder(nn.Module):
    """Picture (B,3,H,W) in [0,1] to latent (B,C,h,w), of zero mean and unit variance once trained and folded."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths, depths = config.encoder_widths, config.encoder_depths
        layers = [nn.PixelUnshuffle(config.unshuffle)]
        layers += [nn.Conv2d(3 * config.unshuffle**2, widths[0], 3, padding=1)]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if stage:
                layers += [nn.Conv2d(widths[stage - 1], width, 3, stride=2, padding=1)]
            layers += [ResidualBlock(width) for _ in range(depth)]
        self.layers = nn.Sequential(*layers)
        self.out = nn.Conv2d(widths[-1], config.latent_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.out(self.layers(image))  # (B,C,h,w)

    @torch.no_grad()
    def fold_(self, mean: Tensor, std: Tensor) -> None:
        """Fold `(latent - mean) / std`, each (C,), into the last convolution."""
        self.out.weight.div_(std[:, None, None, None])
        self.out.bias.sub_(mean).div_(std)


class Decoder(nn.Module):
    """Normalised latent (B,C,h,w) to picture (B,3,H,W), in [0,1] but not clamped."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths = config.decoder_widths
        block = SeparableBlock if config.separable_decoder else ResidualBlock
        layers = [nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)]
        for width, depth, following in zip(widths, config.decoder_depths, (*widths[1:], 3), strict=True):
            layers += [block(width) for _ in range(depth)]
            layers += [growth(width, 4 * following, config.separable_decoder and following != 3), nn.PixelShuffle(2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        return self.layers(latent)  # (B,3,H,W)


def growth(width: int, channels: int, separable: bool) -> nn.Module:
    """The 3x3 convolution before a pixel shuffle; the last one, to the picture, is small and never separated."""
    if not separable:
        return nn.Conv2d(width, channels, 3, padding=1)
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Conv2d(width, channels, 1))


class Autoencoder(nn.Module):
    """An encoder and a decoder that meet at the normalised latent."""

    def __init__(self, encoder: Encoder, decoder: Decoder):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    @classmethod
    def from_config(cls, config: AutoencoderConfig) -> "Autoencoder":
        return cls(Encoder(config), Decoder(config))

    def forward(self, image: Tensor) -> Tensor:
        return self.decoder(self.encoder(image))  # (B,3,H,W)
