"""Builds the components of a bundle from trained modules."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.model.autoencoder import Decoder
from edgegen.model.dit import DiT
from edgegen.model.text import TextEncoders
from edgegen.rewrite.component import Component, Form, TensorSpec
from edgegen.rewrite.dit import DeployedDiT
from edgegen.rewrite.dit_segments import dit_segments
from edgegen.rewrite.layout import weightless
from edgegen.rewrite.text import DeployedText

CONDITION = ("text", "text_mask", "pooled_text")


def condition_specs(text_dim: int, tokens: int) -> tuple[TensorSpec, ...]:
    """What the text encoder gives and the transformer takes: (1, T, 1, L), (1, L, 1, 1), (1, T, 1, 1)."""
    shapes = ((1, text_dim, 1, tokens), (1, tokens, 1, 1), (1, text_dim, 1, 1))
    return tuple(TensorSpec(name, shape) for name, shape in zip(CONDITION, shapes, strict=True))


def transformer_component(dit: DiT, latent_size: tuple[int, int], text_length: int, form: Form) -> Component:
    """The transformer at one latent size (h, w) and number of text tokens; InputError when the grid does not fit."""
    config = dit.config
    latent = (1, config.in_channels, *latent_size)
    condition = condition_specs(config.text_dim, text_length)
    inputs = (
        TensorSpec("latent", latent),
        TensorSpec("timestep_features", (1, config.time_features, 1, 1)),
        *(condition if config.pooled_text else condition[:2]),
    )
    module = DeployedDiT(dit, latent_size, form)
    weightless(module)
    outputs = (TensorSpec("velocity", latent),)
    return Component("transformer", module, inputs, outputs, form.attention, dit_segments(module))


def text_component(text: TextEncoders, word_length: int | None, byte_length: int | None, form: Form) -> Component:
    """The text encoders present, at the tokenizers' lengths."""
    lengths = {"word": word_length, "byte": byte_length}
    inputs = []
    for name in text.encoders:
        length = lengths[name]
        if not length:
            raise InputError(
                f"the {name} encoder is present but its tokenizer gives no length.",
                f"Add tokenizer/{name}.json to the checkpoint.",
            )
        inputs.append(TensorSpec(f"{name}_ids", (1, length), "int32"))
    width = cast(nn.Linear, next(iter(text.projections.values()))).out_features
    outputs = condition_specs(width, sum(spec.shape[1] for spec in inputs))
    return Component("text_encoder", weightless(DeployedText(text, form)), tuple(inputs), outputs, form.attention)


class DeployedDecoder(nn.Module):
    """latent (B, C, h, w) -> image (B, 3, H, W), clipped to [0, 1]."""

    def __init__(self, source: Decoder):
        super().__init__()
        self.layers = source.layers

    def forward(self, latent: Tensor) -> Tensor:
        return self.layers(latent).clamp(0.0, 1.0)


def decoder_component(decoder: Decoder, latent_size: tuple[int, int], form: Form) -> Component:
    """The decoder at one latent size (h, w); convolutions alone, the same in every form."""
    channels = cast(nn.Conv2d, decoder.layers[0]).in_channels
    scale = 2 ** sum(isinstance(layer, nn.PixelShuffle) for layer in decoder.layers)
    image = (1, 3, latent_size[0] * scale, latent_size[1] * scale)
    module = weightless(DeployedDecoder(decoder))
    inputs = (TensorSpec("latent", (1, channels, *latent_size)),)
    return Component("decoder", module, inputs, (TensorSpec("image", image),), form.attention)
