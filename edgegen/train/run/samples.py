"""What a model in training draws for fixed prompts, the same noise every time.

Shapes: P prompts, L text tokens, T text channels, C latent channels, h x w latent grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from edgegen.model.autoencoder import Decoder
from edgegen.model.elastic import ElasticDiT
from edgegen.model.sampler import SamplerConfig, euler, flow_sigmas, guide, initial_noise
from edgegen.model.text import TextEncoders, Tokenizers


@dataclass(frozen=True)
class PromptGrid:
    """Calling it with a supernet gives, for each width, the prompts' pictures side by side: (H, P*W, 3) uint8."""

    prompts: Sequence[str]
    tokenizers: Tokenizers
    encoders: TextEncoders
    decoder: Decoder
    latent: tuple[int, int, int]  # (C, h, w)
    sampler: SamplerConfig = SamplerConfig(16, 1.0, 2.0)

    @torch.no_grad()
    def __call__(self, model: ElasticDiT) -> dict[str, np.ndarray]:
        device, count = next(model.parameters()).device, len(self.prompts)
        ids = self.tokenizers.encode([*self.prompts, *[""] * count]).tensors()
        condition = [part.to(device) for part in self.encoders(*ids)]  # prompts, then as many empty ones
        noise = initial_noise((count, *self.latent), 0)

        def velocity(x: np.ndarray, sigma: float, width: float) -> np.ndarray:
            twice = torch.from_numpy(np.concatenate([x, x])).to(device)
            t = torch.full((2 * count,), sigma, device=device)
            both = model(width, twice, t, *condition).float().cpu().numpy()
            return guide(both[:count], both[count:], self.sampler.guidance)

        grids = {}
        for width in model.config.widths:
            sigmas = flow_sigmas(self.sampler.steps, self.sampler.shift)
            *_, (latent, _) = euler(partial(velocity, width=width), noise, sigmas)
            pictures = self.decoder(torch.from_numpy(latent)).clamp(0, 1)  # (P, 3, H, W)
            row = torch.cat(list(pictures), -1).permute(1, 2, 0)  # (H, P*W, 3)
            grids[f"prompts/{width}"] = (row * 255).round().to(torch.uint8).numpy()
        return grids
