"""Contact sheets: what a checkpoint draws for prompts that training saw and for some it did not, as one PNG.

Shapes: B prompts, C latent channels, h x w latent grid, H x W pixels.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from edgegen.errors import InputError
from edgegen.model.checkpoint import Checkpoint
from edgegen.model.dit import DiT
from edgegen.model.sampler import SamplerConfig, euler, flow_sigmas, guide, initial_noise

SHEET_WIDTH = 1280  # pixels, at most, unless one tile is wider
LABEL, HEADING, GAP, LINE = 14, 20, 6, 18  # font sizes, space between pictures, height of a line of label; pixels


@dataclass(frozen=True)
class Variant:
    """One way to draw: pictures of the same prompt by different variants stand side by side."""

    width: float
    steps: int
    shift: float
    guidance: float
    seed: int

    def __post_init__(self) -> None:
        SamplerConfig(self.steps, self.shift, self.guidance)  # refuses what cannot be
        if self.seed < 0:
            raise InputError(f"seed {self.seed} is below 0.", "Give 0 or more.")


@dataclass(frozen=True)
class Group:
    """Prompts under one heading."""

    title: str
    prompts: tuple[str, ...]


@torch.no_grad()
def draw(checkpoint: Checkpoint, prompts: Sequence[str], variant: Variant) -> np.ndarray:
    """Pictures (B,H,W,3) uint8; each starts from the noise that `edgegen generate` gives the seed."""
    size = checkpoint.config.latent_size(checkpoint.config.resolution)
    noise = initial_noise((1, checkpoint.config.transformer.in_channels, *size), variant.seed)
    model = checkpoint.transformer(variant.width)
    conditions = encode(checkpoint, list(prompts)), encode(checkpoint, [""] * len(prompts))

    def velocity(latent: np.ndarray, sigma: float) -> np.ndarray:
        conditional = run(model, latent, sigma, conditions[0])
        if variant.guidance == 1:
            return conditional
        return guide(conditional, run(model, latent, sigma, conditions[1]), variant.guidance)

    start = noise.repeat(len(prompts), 0)  # (B,C,h,w)
    *_, (latent, _) = euler(velocity, start, flow_sigmas(variant.steps, variant.shift))
    picture = checkpoint.decoder()(torch.from_numpy(latent)).clamp(0, 1)  # (B,3,H,W)
    return (picture * 255).round().byte().permute(0, 2, 3, 1).numpy()


def encode(checkpoint: Checkpoint, prompts: list[str]) -> tuple[Tensor, ...]:
    """Text (B,L,T), mask (B,L) and, where the transformer wants it, pooled text (B,T)."""
    text, mask, pooled = checkpoint.text_encoders()(*checkpoint.tokenizers().encode(prompts).tensors())
    return (text, mask, pooled) if checkpoint.config.transformer.pooled_text else (text, mask)


def run(model: DiT, latent: np.ndarray, sigma: float, condition: tuple[Tensor, ...]) -> np.ndarray:
    """The velocity of latents (B,C,h,w) at one noise level."""
    return model(torch.from_numpy(latent), torch.full((len(latent),), sigma), *condition).numpy()


def contact_sheet(checkpoint: Checkpoint, groups: Sequence[Group], variants: Sequence[Variant]) -> Image.Image:
    """Every prompt drawn in every variant, under its group's heading, labelled."""
    prompts = [prompt for group in groups for prompt in group.prompts]
    drawn = [draw(checkpoint, prompts, variant) for variant in variants]  # (B,H,W,3) each
    strips = dict(zip(prompts, np.stack(drawn, 1), strict=True))  # (V,H,W,3) by prompt
    blocks = [line_image(describe(variants), HEADING)]
    for group in groups:
        tiles = [tile(prompt, strips[prompt]) for prompt in group.prompts]
        blocks += [line_image(group.title, HEADING), *rows_of(tiles)]
    return stack(blocks)


def describe(variants: Sequence[Variant]) -> str:
    """What the pictures of a tile have in common, and what changes from left to right."""
    names = ("width", "steps", "shift", "guidance", "seed")
    same = [f"{name} {getattr(variants[0], name):g}" for name in names if varies(variants, name) == 1]
    changing = [
        f"{name} {', '.join(f'{getattr(v, name):g}' for v in variants)}" for name in names if varies(variants, name) > 1
    ]
    return "; ".join([", ".join(same), *(["left to right: " + " with ".join(changing)] if changing else [])])


def varies(variants: Sequence[Variant], name: str) -> int:
    return len({getattr(variant, name) for variant in variants})


def tile(prompt: str, pictures: np.ndarray) -> Image.Image:
    """Pictures (V,H,W,3) side by side above the prompt, which takes up to two lines."""
    count, height, width, _ = pictures.shape
    made = Image.new("RGB", (count * (width + GAP) + GAP, height + GAP + 2 * LINE), "white")
    for index, picture in enumerate(pictures):
        made.paste(Image.fromarray(picture), (GAP + index * (width + GAP), GAP))
    lines = textwrap.wrap(prompt, max(12, made.width // 8), max_lines=2, placeholder="…") or ["(empty)"]
    pen = ImageDraw.Draw(made)
    for index, line in enumerate(lines):
        pen.text((GAP, height + GAP + index * LINE), line, "black", ImageFont.load_default(LABEL))
    return made


def rows_of(tiles: Sequence[Image.Image]) -> list[Image.Image]:
    """Tiles of one size packed into rows."""
    if not tiles:
        return []
    width, height = tiles[0].size
    columns = max(1, SHEET_WIDTH // width)
    rows = []
    for start in range(0, len(tiles), columns):
        row = Image.new("RGB", (columns * width, height), "white")
        for index, one in enumerate(tiles[start : start + columns]):
            row.paste(one, (index * width, 0))
        rows.append(row)
    return rows


def line_image(text: str, size: int) -> Image.Image:
    """A heading."""
    font = ImageFont.load_default(size)
    made = Image.new("RGB", (int(font.getlength(text)) + 2 * GAP, size + 3 * GAP), "white")
    ImageDraw.Draw(made).text((GAP, GAP), text, "black", font)
    return made


def stack(blocks: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other, at the left."""
    made = Image.new("RGB", (max(b.width for b in blocks), sum(b.height for b in blocks)), "white")
    top = 0
    for block in blocks:
        made.paste(block, (0, top))
        top += block.height
    return made
