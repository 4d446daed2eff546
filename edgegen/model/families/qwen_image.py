"""Qwen-Image's transformer (diffusers' QwenImageTransformer2DModel) with the inputs and outputs of `DiT`.

Shapes: B batch, C latent channels, h x w latent grid, L text tokens, T text channels, N = (h/2)(w/2) tokens.

Its conventions, as its pipeline uses it: latents are packed into 2x2 patches with channels outermost, which is what
pixel-unshuffle gives; `timestep` is sigma in [0, 1] (it multiplies by 1000 itself); the output is the flow velocity
noise - x0. All three are this project's own, so neither t nor the sign changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.model.dit import to_grid, to_tokens
from edgegen.model.states import pickle_error
from edgegen.strict_json import read_json

NAME = "QwenImageTransformer2DModel"
PATCH = 2


class QwenImage(nn.Module):
    """forward: latent (B, C, h, w), t (B,) in [0, 1], text (B, L, T), mask (B, L), pooled (ignored) -> velocity."""

    def __init__(self, transformer: nn.Module):
        super().__init__()
        self.transformer = transformer

    @property
    def text_dim(self) -> int:
        return self.transformer.config.joint_attention_dim

    @property
    def latent_channels(self) -> int:
        return self.transformer.config.in_channels // PATCH**2

    @property
    def feature_size(self) -> int:
        return self.transformer.inner_dim

    @property
    def last_block(self) -> nn.Module:
        """Returns (text tokens, picture tokens (B, N, D))."""
        return self.transformer.transformer_blocks[-1]

    def forward(self, latent: Tensor, t: Tensor, text: Tensor, mask: Tensor, pooled: Tensor | None = None) -> Tensor:
        grid = (latent.shape[-2] // PATCH, latent.shape[-1] // PATCH)
        kind = next(self.transformer.parameters()).dtype
        tokens = to_tokens(F.pixel_unshuffle(latent, PATCH)).to(kind)  # (B, N, 4C)
        velocity = self.transformer(
            hidden_states=tokens,
            encoder_hidden_states=text.to(kind),
            encoder_hidden_states_mask=mask.bool(),
            timestep=t.to(kind),
            img_shapes=[(1, *grid)] * len(latent),
            return_dict=False,
        )[0]  # (B, N, 4C)
        return F.pixel_shuffle(to_grid(velocity, grid), PATCH).to(latent.dtype)  # (B, C, h, w)


def is_diffusers(folder: Path) -> bool:
    """Whether a folder is a diffusers model: its config.json names a class."""
    return "_class_name" in read_config(folder)


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's config.json, or nothing."""
    try:
        values = read_json(folder / "config.json")
    except InputError:
        return {}
    return values if isinstance(values, dict) else {}


def load_qwen_image(folder: Path) -> QwenImage:
    """Opens a local folder that diffusers saved, weights in safetensors alone; needs the package diffusers."""
    name = read_config(folder).get("_class_name")
    if name != NAME:
        raise InputError(f"{folder} holds a {name}, not a {NAME}.", "Give the transformer folder of Qwen-Image.")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted([*folder.glob("*.bin"), *folder.glob("*.pt")])
        if pickles:
            raise pickle_error(pickles[0])
        raise InputError(f"{folder} has no .safetensors.", "Copy the whole transformer folder.")
    try:
        from diffusers import QwenImageTransformer2DModel
    except ImportError as error:
        raise InputError(
            f"a diffusers teacher needs the package diffusers ({error}).", "pip install 'edgegen[train]'."
        ) from None
    try:
        model = QwenImageTransformer2DModel.from_pretrained(str(folder), use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{folder} cannot be opened: {str(error).splitlines()[0]}", "Copy it again from where it was made."
        ) from error
    return QwenImage(model.eval().requires_grad_(False))
