"""Draws pictures of many prompts, in batches with PyTorch networks or one by one with a bundle's, resumably.

Shapes: N prompts, B batch, C latent channels, h x w latent grid, L text tokens, T text width, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from edgegen.callbacks import Advance
from edgegen.errors import EdgegenError, InputError
from edgegen.model.autoencoder import Decoder
from edgegen.model.checkpoint import Checkpoint
from edgegen.model.dit import DiT
from edgegen.model.sampler import initial_noise
from edgegen.pictures import save_picture
from edgegen.pipeline.draw import draw as draw_one
from edgegen.pipeline.networks import Networks

Draw = Callable[[Sequence[int]], np.ndarray]  # indices of prompts -> pictures (B,H,W,3) uint8
FIRST_SEED = 10_000  # of the noise: picture i starts from the noise that `edgegen generate --seed FIRST_SEED + i` does


@dataclass(frozen=True)
class EncodedPrompts:
    """What a transformer is told: the text of prompts, and of the empty one for guidance.

    text (B,L,T), mask (B,L) and pooled (B,T); the empty prompt's have B = 1.
    """

    text: Tensor
    mask: Tensor
    pooled: Tensor | None
    empty_text: Tensor
    empty_mask: Tensor
    empty_pooled: Tensor | None

    @classmethod
    @torch.no_grad()
    def of(cls, checkpoint: Checkpoint, prompts: Sequence[str], batch: int = 64) -> EncodedPrompts:
        """Encodes prompts with a checkpoint's text encoders."""
        encoders, tokenizers = checkpoint.text_encoders(), checkpoint.tokenizers()
        said = ["", *prompts]
        parts = [
            encoders(*tokenizers.encode(said[start : start + batch]).tensors()) for start in range(0, len(said), batch)
        ]
        text, mask, pooled = (torch.cat(column) for column in zip(*parts, strict=True))
        asked = pooled if checkpoint.config.transformer.pooled_text else None
        return cls(
            text[1:],
            mask[1:],
            None if asked is None else asked[1:],
            text[:1],
            mask[:1],
            None if asked is None else asked[:1],
        )

    def rows(self, rows: Sequence[int]) -> EncodedPrompts:
        """The condition of some prompts."""
        index = torch.tensor(rows)
        pooled = None if self.pooled is None else self.pooled[index]
        return EncodedPrompts(
            self.text[index], self.mask[index], pooled, self.empty_text, self.empty_mask, self.empty_pooled
        )

    def arguments(self, guided: bool) -> tuple[Tensor, ...]:
        """The transformer's text inputs; `guided` puts the empty prompt's B rows behind the prompts'."""
        parts = [(self.text, self.empty_text), (self.mask, self.empty_mask)]
        if self.pooled is not None and self.empty_pooled is not None:
            parts.append((self.pooled, self.empty_pooled))
        count = len(self.text)
        return tuple(torch.cat([own, empty.expand(count, *empty.shape[1:])]) if guided else own for own, empty in parts)


@torch.no_grad()
def draw_batch(
    dit: DiT, condition: EncodedPrompts, noise: Tensor, sigmas: Sequence[float], guidance: float = 1.0
) -> Tensor:
    """Latents (B,C,h,w) by Euler steps from noise (B,C,h,w) down `sigmas` (steps + 1 levels from 1 to 0).

    Classifier-free guidance runs both conditions in one batch of 2 B; a guidance of 1 runs the prompts alone.
    """
    if len(noise) != len(condition.text):
        raise InputError(f"there are {len(noise)} noises for {len(condition.text)} prompts.", "Give one for each.")
    guided = guidance != 1
    arguments = condition.arguments(guided)
    x = noise.float()
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        latent = torch.cat([x, x]) if guided else x
        velocity = dit(latent, torch.full((len(latent),), float(sigma)), *arguments)
        if guided:
            conditional, unconditional = velocity.chunk(2)
            velocity = unconditional + guidance * (conditional - unconditional)
        x = x + (following - sigma) * velocity
    if not torch.isfinite(x).all():
        raise EdgegenError("a drawn latent is not finite.", "Look at the transformer's weights: edgegen verify.")
    return x


def noises(shape: Sequence[int], indices: Sequence[int], seed: int = FIRST_SEED) -> Tensor:
    """The noise (B,C,h,w) of pictures by index; `shape` is (C,h,w)."""
    return torch.from_numpy(np.concatenate([initial_noise((1, *shape), seed + index) for index in indices]))


@torch.no_grad()
def decode_latents(decoder: Decoder, latents: Tensor) -> np.ndarray:
    """Pictures (B,H,W,3) uint8 of latents (B,C,h,w)."""
    return (decoder(latents).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def torch_draw(
    dit: DiT,
    decoder: Decoder,
    condition: EncodedPrompts,
    sigmas: Sequence[float],
    guidance: float,
    seed: int = FIRST_SEED,
    samples: int = 1,
) -> Draw:
    """Draws with PyTorch networks; picture i is of prompt i // samples."""
    config = dit.config
    shape = (config.in_channels, *(side * config.patch for side in config.grid))

    def draw(indices: Sequence[int]) -> np.ndarray:
        rows = condition.rows([index // samples for index in indices])
        latents = draw_batch(dit, rows, noises(shape, indices, seed), sigmas, guidance)
        return decode_latents(decoder, latents)

    return draw


def bundle_draw(
    networks: Networks,
    prompts: Sequence[str],
    shape: Sequence[int],
    sigmas: Sequence[float],
    guidance: float,
    seed: int = FIRST_SEED,
    samples: int = 1,
) -> Draw:
    """Draws with the artifacts of a bundle, one at a time; `shape` is (1,C,h,w), picture i of prompt i // samples."""

    def draw(indices: Sequence[int]) -> np.ndarray:
        pictures = [draw_one(networks, prompts[i // samples], shape, sigmas, guidance, seed + i) for i in indices]
        return np.rint(np.clip(np.concatenate(pictures), 0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)

    return draw


def draw_all(draw: Draw, count: int, batch: int, advance: Advance = lambda done, of: None) -> np.ndarray:
    """All pictures (N,H,W,3), in batches."""
    parts = []
    for indices in batches(range(count), batch):
        parts.append(draw(indices))
        advance(indices[-1] + 1, count)
    return np.concatenate(parts)


def draw_into(folder: Path, draw: Draw, count: int, batch: int, advance: Advance = lambda done, of: None) -> np.ndarray:
    """All pictures (N,H,W,3), each kept as a PNG in `folder`; those that are there are read, not drawn again."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [index for index in range(count) if not picture_path(folder, index).is_file()]
    done = count - len(missing)
    for indices in batches(missing, batch):
        for index, picture in zip(indices, draw(indices), strict=True):
            save_picture(picture, picture_path(folder, index))
        done += len(indices)
        advance(done, count)
    return np.stack([read_png(picture_path(folder, index)) for index in range(count)])


def picture_path(folder: Path, index: int) -> Path:
    return folder / f"{index:05}.png"


def read_png(path: Path) -> np.ndarray:
    """A picture (H,W,3) uint8; one that cannot be read is an error with its name."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}.", "Delete it; it is drawn again.") from None


def batches(indices: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices in lists of at most `size`."""
    for start in range(0, len(indices), size):
        yield list(indices[start : start + size])
