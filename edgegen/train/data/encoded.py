"""What frozen encoders make of pictures and captions.

Shapes: M pictures, C latent channels, h x w latent grid, K captions, L text tokens, T text width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edgegen.model.autoencoder import Encoder
from edgegen.model.pixels import to_tensor
from edgegen.model.text import TextEncoders, Tokenizers


@torch.no_grad()
def cache_latents(images: np.ndarray, encoder: Encoder, batch: int = 16) -> Tensor:
    """Normalised latents (M,C,h,w) float32 of uint8 pictures (M,H,W,3)."""
    return torch.cat([encoder(to_tensor(images[i : i + batch])) for i in range(0, len(images), batch)])


@torch.no_grad()
def cache_text(
    prompts: list[str], tokenizers: Tokenizers, encoders: TextEncoders, batch: int = 64, dtype=torch.float16
) -> tuple[Tensor, Tensor, Tensor]:
    """Text (K,L,T) and mask (K,L) of `dtype`, pooled (K,T) float32, of K prompts."""
    parts = []
    for start in range(0, len(prompts), batch):
        text, mask, pooled = encoders(*tokenizers.encode(prompts[start : start + batch]).tensors())
        parts.append((text.to(dtype), mask.to(dtype), pooled))
    text, mask, pooled = (torch.cat(column) for column in zip(*parts, strict=True))
    return text, mask, pooled
