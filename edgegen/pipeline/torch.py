"""The reference: a checkpoint's own modules in fp32 PyTorch, before any rewrite."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from edgegen.model.autoencoder import Decoder
from edgegen.model.checkpoint import Checkpoint
from edgegen.model.dit import DiT
from edgegen.model.text import TextEncoders, TokenIds, Tokenizers
from edgegen.pipeline.networks import Condition


class TorchNetworks:
    """The networks of a checkpoint at one width; each is made at its first use."""

    def __init__(self, checkpoint: Checkpoint, width: float):
        self.checkpoint, self.width = checkpoint, width
        checkpoint.config.transformer.at(width)  # refuses an unknown width

    @cached_property
    def tokenizers(self) -> Tokenizers:
        return self.checkpoint.tokenizers()

    @cached_property
    def text_encoders(self) -> TextEncoders:
        return self.checkpoint.text_encoders()

    @cached_property
    def transformer(self) -> DiT:
        return self.checkpoint.transformer(self.width)

    @cached_property
    def decoder(self) -> Decoder:
        return self.checkpoint.decoder()

    @torch.no_grad()
    def encode(self, ids: TokenIds) -> Condition:
        text, mask, pooled = self.text_encoders(*ids.tensors())  # (1, L, T), (1, L), (1, T)
        return {
            "text": np.ascontiguousarray(text.numpy().transpose(0, 2, 1)[:, :, None]),  # (1, T, 1, L)
            "text_mask": mask.numpy()[:, :, None, None],  # (1, L, 1, 1)
            "pooled_text": pooled.numpy()[:, :, None, None],  # (1, T, 1, 1)
        }

    @torch.no_grad()
    def velocity(self, latent: np.ndarray, sigma: float, condition: Condition) -> np.ndarray:
        text = torch.from_numpy(condition["text"])[:, :, 0].transpose(1, 2)  # (1, L, T)
        mask = torch.from_numpy(condition["text_mask"])[:, :, 0, 0]  # (1, L)
        pooled = torch.from_numpy(condition["pooled_text"])[:, :, 0, 0]  # (1, T)
        return self.transformer(torch.from_numpy(latent), torch.tensor([sigma]), text, mask, pooled).numpy()

    @torch.no_grad()
    def decode(self, latent: np.ndarray) -> np.ndarray:
        return self.decoder(torch.from_numpy(latent)).clamp(0, 1).numpy()  # (1, 3, H, W)
