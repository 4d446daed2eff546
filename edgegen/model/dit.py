"""The efficient three-stage diffusion transformer, arXiv 2601.08303 section 3.

Shapes: B batch, C latent channels, h x w latent grid, p patch, N = (h/p)(w/p) tokens, D channels, L text tokens,
T text channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgegen.model.attention import RMSNorm
from edgegen.model.blocks import Block, Modulation, modulate, timestep_features
from edgegen.model.config import DiTConfig


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H*W, C)."""
    return x.flatten(2).transpose(1, 2)


def to_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, H*W, C) -> (B, C, H, W)."""
    return x.transpose(1, 2).unflatten(-1, grid)


class Resample(nn.Module):
    """Halves (pixel-unshuffle, then 4D -> D) or doubles (D -> 4D, then pixel-shuffle) the token grid.

    The four positions of a cell stay next to each other within a channel, so a prefix of channels is a narrower model.
    """

    def __init__(self, size: int, down: bool):
        super().__init__()
        self.down = down
        self.proj = nn.Linear(4 * size, size, bias=False) if down else nn.Linear(size, 4 * size, bias=False)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.down:
            return self.proj(to_tokens(F.pixel_unshuffle(to_grid(x, grid), 2)))  # (B, N/4, D)
        return to_tokens(F.pixel_shuffle(to_grid(self.proj(x), grid), 2))  # (B, 4N, D)


class Final(nn.Module):
    """Norm, timestep modulation, and the projection back to patches."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.table = nn.Parameter(torch.randn(2, config.hidden) / config.hidden**0.5)
        self.norm = RMSNorm(config.hidden, affine=False)
        self.proj = nn.Linear(config.hidden, config.in_channels * config.patch**2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        shift, scale = (embedding[:, None] + self.table).unbind(1)  # (B, D) each
        return self.proj(modulate(self.norm(x), shift, scale))  # (B, N, C*p*p)


def make_stage(config: DiTConfig, stage: str) -> nn.ModuleList:
    """The blocks of one stage; in the middle, long skips join block i to block depth - 1 - i."""
    index = config.stages.index(stage)
    depth, ratio = config.depths[index], config.ffn_ratios[index]
    skips = config.long_skips and stage == "middle"
    return nn.ModuleList(
        Block(config, config.stage_sparse(stage), ratio, skip=skips and skip_source(i, depth) is not None)
        for i in range(depth)
    )


def skip_source(index: int, depth: int) -> int | None:
    """The block whose output joins the input of block `index`: depth - 1 - index, unless it is the one just before."""
    source = depth - 1 - index
    return source if source < index - 1 else None


class DiT(nn.Module):
    """Predicts the flow-matching velocity of a latent.

    forward: latent (B, C, h, w), t (B,) in [0, 1], text (B, L, T), mask (B, L) with 1 for real tokens,
    pooled (B, T) when the configuration asks for it -> velocity (B, C, h, w).
    """

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.config = config
        size = config.hidden
        self.modulation = Modulation(config)
        self.patch = nn.Linear(config.in_channels * config.patch**2, size)
        for stage in config.stages:
            setattr(self, stage, make_stage(config, stage))
        if len(config.stages) == 3:
            self.downsample = Resample(size, down=True)
            self.upsample = Resample(size, down=False)
            self.skip = nn.Linear(2 * size, size, bias=False) if config.long_skips else None
        self.final = Final(config)

    def forward(self, latent: Tensor, t: Tensor, text: Tensor, mask: Tensor, pooled: Tensor | None = None) -> Tensor:
        config = self.config
        grid = config.grid_of(tuple(latent.shape[-2:]))
        features = timestep_features(t, config.time_features).to(latent.dtype)  # (B, F)
        embedding, modulation = self.modulation(features, pooled)  # (B, D), (B, 6, D)
        x = self.patch(to_tokens(F.pixel_unshuffle(latent, config.patch)))  # (B, N, D)
        if len(config.stages) == 1:
            x = self.run_middle(x, grid, modulation, text, mask)
        else:
            x = self.run_stages(x, grid, modulation, text, mask)
        out = self.final(x, embedding)  # (B, N, C*p*p)
        return F.pixel_shuffle(to_grid(out, grid), config.patch)  # (B, C, h, w)

    def run_stages(self, x: Tensor, grid: tuple[int, int], *condition: Tensor) -> Tensor:
        half = (grid[0] // 2, grid[1] // 2)
        for block in self.down:
            x = block(x, grid, *condition)
        skipped = x  # (B, N, D)
        x = self.downsample(x, grid)  # (B, N/4, D)
        x = self.run_middle(x, half, *condition)
        x = self.upsample(x, half)  # (B, N, D)
        if self.skip is not None:
            x = self.skip(torch.cat([x, skipped], -1))
        for block in self.up:
            x = block(x, grid, *condition)
        return x

    def run_middle(self, x: Tensor, grid: tuple[int, int], *condition: Tensor) -> Tensor:
        """U-ViT long skips: block depth - 1 - i also reads the output of block i."""
        outputs: list[Tensor] = []
        for index, block in enumerate(self.middle):
            source = skip_source(index, len(self.middle)) if block.skip is not None else None
            x = block(x, grid, *condition, skipped=None if source is None else outputs[source])
            outputs.append(x)
        return x


def init_(model: DiT, seed: int) -> DiT:
    """Initializes in place: Xavier projections, averaging compressions, zero gates and output (the identity start)."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            average_(module)
    for name, parameter in model.named_parameters():
        if name.endswith("table"):
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=generator)
        elif name.endswith("attn.gate.weight") or name.startswith("final.proj."):
            nn.init.zeros_(parameter)
    for module in model.modules():
        if isinstance(module, Block):
            nn.init.zeros_(module.cross.o.weight)
    nn.init.normal_(model.modulation.out.weight, std=0.02, generator=generator)
    return model


def average_(conv: nn.Conv2d) -> None:
    """Makes a grouped 2x2 convolution the mean of each cell, channel by channel."""
    size = conv.weight.shape[1]
    eye = torch.eye(size).repeat(conv.groups, 1)  # (groups*size, size)
    with torch.no_grad():
        conv.weight.copy_(eye[:, :, None, None].expand_as(conv.weight) / 4)
