"""Pictures of a transformer at fixed seeds, drawn as `edgegen generate` draws them but in plain PyTorch."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from edgegen.model.autoencoder import Decoder
from edgegen.model.dit import DiT
from edgegen.model.sampler import euler, guide, initial_noise
from edgegen.quantize.trajectories import Conditions, Sampling


@torch.no_grad()
def draw(model: DiT, decoder: Decoder, conditions: Conditions, row: int, sampling: Sampling, seed: int) -> np.ndarray:
    """The picture (H, W, 3) uint8 of one prompt's row."""

    def velocity(latent: np.ndarray, sigma: float) -> np.ndarray:
        def at(index: int) -> np.ndarray:
            rows = conditions.rows(torch.tensor([index]))
            return model(torch.from_numpy(latent), torch.tensor([sigma]), *rows).numpy()

        return at(row) if sampling.guidance == 1 else guide(at(row), at(0), sampling.guidance)

    *_, (latent, _) = euler(velocity, initial_noise((1, *sampling.shape), seed), sampling.sigmas)
    picture = decoder(torch.from_numpy(latent)).clamp(0, 1)[0]  # (3, H, W)
    return (picture * 255).round().byte().permute(1, 2, 0).numpy()


def draw_rows(
    model: DiT, decoder: Decoder, conditions: Conditions, rows: Sequence[int], sampling: Sampling, seed: int
) -> list[np.ndarray]:
    """A picture for each row, each from a seed of its own."""
    return [draw(model, decoder, conditions, row, sampling, seed + number) for number, row in enumerate(rows)]


def data_url(picture: np.ndarray) -> str:
    """A picture (H, W, 3) uint8 as the source of an <img>."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
