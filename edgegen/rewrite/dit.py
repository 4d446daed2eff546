"""The whole transformer in deployable form; every weight keeps the name it has in the checkpoint.

Shapes: B batch, C latent channels, h x w latent grid, F timestep features, T text channels, L text tokens, D channels,
S tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgegen.model.blocks import Block, FeedForward, Modulation
from edgegen.model.dit import DiT, Final, skip_source
from edgegen.rewrite.attention import MASKED, cross_attention, self_attention
from edgegen.rewrite.component import Form
from edgegen.rewrite.layout import ChannelsFirst, Layout, channel_norm, layout_of, stride_conv

SCALES = (1, 4)  # rows of the modulation that multiply: scale of the attention's and of the feed-forward's input


class DeployedModulation(nn.Module):
    """adaLN-single; the 1 of `1 + scale` is folded into the bias, since a literal becomes an fp32 constant."""

    def __init__(self, source: Modulation, layout: Layout):
        super().__init__()
        self.embed, self.hidden = layout.linear(source.embed), layout.linear(source.hidden)
        self.pooled = None if source.pooled is None else layout.linear(source.pooled)
        self.out = layout.linear(source.out)
        bias = source.out.bias.detach().clone().view(6, -1)
        bias[list(SCALES)] += 1
        self.out.bias = nn.Parameter(bias.flatten(), requires_grad=False)

    def forward(self, features: Tensor, pooled: Tensor | None) -> tuple[Tensor, Tensor]:
        embedding = self.hidden(F.silu(self.embed(features)))
        if self.pooled is not None:
            embedding = embedding + self.pooled(pooled)
        return embedding, self.out(F.silu(embedding))  # D channels, 6 D channels


class DeployedFeedForward(nn.Module):
    """Two projections with GELU between them."""

    def __init__(self, source: FeedForward, layout: Layout):
        super().__init__()
        self.up, self.down = layout.linear(source.up), layout.linear(source.down)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class DeployedBlock(nn.Module):
    """A transformer block in a layout; the trained block's formula."""

    def __init__(self, source: Block, grid: tuple[int, int], form: Form, layout: Layout):
        super().__init__()
        self.layout = layout
        size = source.table.shape[1]
        self.table = nn.Parameter(layout.vector(source.table.flatten()), requires_grad=False)  # 6 D channels
        self.skip = None if source.skip is None else layout.linear(source.skip)
        self.norm_attn = channel_norm(source.norm_attn, size, form)
        self.attn = self_attention(source.attn, grid, form)
        self.norm_cross = channel_norm(source.norm_cross, size, form)
        self.cross = cross_attention(source.cross, form)
        self.norm_ffn = channel_norm(source.norm_ffn, size, form)
        self.ffn = DeployedFeedForward(source.ffn, layout)

    def forward(
        self, x: Tensor, modulation: Tensor, text: Tensor, bias: Tensor, skipped: Tensor | None = None
    ) -> Tensor:
        if self.skip is not None:
            assert skipped is not None  # run_middle gives such a block its source
            x = self.skip(torch.cat([x, skipped], 1))
        modulation = self.layout.spread(modulation + self.table, x)
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.layout.chunk(modulation, 6)
        x = x + gate_a * self.attn(self.norm_attn(x) * scale_a + shift_a)
        x = x + self.cross(self.norm_cross(x), text, bias)
        return x + gate_f * self.ffn(self.norm_ffn(x) * scale_f + shift_f)


class DeployedFinal(nn.Module):
    """Norm, modulation with the 1 folded into the table, projection to patches."""

    def __init__(self, source: Final, form: Form, layout: Layout):
        super().__init__()
        self.layout = layout
        table = source.table.detach().clone()
        table[1] += 1
        size = table.shape[1]
        self.table = nn.Parameter(layout.vector(table.flatten()), requires_grad=False)  # 2 D channels
        self.norm = channel_norm(source.norm, size, form)
        self.proj = layout.linear(source.proj)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        both = torch.cat([embedding, embedding], 1) + self.table
        shift, scale = self.layout.chunk(self.layout.spread(both, x), 2)
        return self.proj(self.norm(x) * scale + shift)


class DeployedDiT(nn.Module):
    """latent (B, C, h, w), timestep_features (B, F, 1, 1), text (B, T, 1, L), text_mask (B, L, 1, 1)
    [, pooled_text (B, T, 1, 1)] -> velocity (B, C, h, w), at one static grid.
    """

    down: nn.ModuleList
    middle: nn.ModuleList
    up: nn.ModuleList

    def __init__(self, source: DiT, latent_size: tuple[int, int], form: Form):
        super().__init__()
        config = self.config = source.config
        layout = self.layout = layout_of(form.attention)
        self.grid = config.grid_of(latent_size)
        self.half_grid = (self.grid[0] // 2, self.grid[1] // 2)
        self.modulation = DeployedModulation(source.modulation, layout)
        self.patch = stride_conv(source.patch, config.in_channels, config.patch)
        for stage in config.stages:
            grid = self.half_grid if stage == "middle" and len(config.stages) == 3 else self.grid
            blocks = (DeployedBlock(block, grid, form, layout) for block in getattr(source, stage))
            setattr(self, stage, nn.ModuleList(blocks))
        if len(config.stages) == 3:
            self.downsample = nn.ModuleDict({"proj": stride_conv(source.downsample.proj, config.hidden, 2)})
            self.upsample = nn.ModuleDict({"proj": layout.linear(source.upsample.proj)})
            self.skip = None if source.skip is None else layout.linear(source.skip)
        self.final = DeployedFinal(source.final, form, layout)

    def forward(
        self,
        latent: Tensor,
        timestep_features: Tensor,
        text: Tensor,
        text_mask: Tensor,
        pooled_text: Tensor | None = None,
    ) -> Tensor:
        layout = self.layout
        text = layout.accept(text)
        bias = text_mask * -MASKED + MASKED  # (B, L, 1, 1); batched: (B, 1, L)
        bias = bias if layout is ChannelsFirst else bias.reshape(bias.shape[0], 1, bias.shape[1])
        pooled = None if pooled_text is None else layout.accept(pooled_text)
        embedding, modulation = self.modulation(layout.accept(timestep_features), pooled)
        condition = (modulation, text, bias)
        x = layout.flatten(self.patch(latent))
        x = self.run_stages(x, *condition) if len(self.config.stages) == 3 else self.run_middle(x, *condition)
        out = layout.unflatten(self.final(x, embedding), self.grid)  # (B, C*p*p, H, W)
        return F.pixel_shuffle(out, self.config.patch)  # (B, C, h, w)

    def run_stages(self, x: Tensor, *condition: Tensor) -> Tensor:
        layout = self.layout
        for block in self.down:
            x = block(x, *condition, None)
        skipped = x
        x = layout.flatten(self.downsample["proj"](layout.unflatten(x, self.grid)))
        x = self.run_middle(x, *condition)
        x = layout.flatten(F.pixel_shuffle(layout.unflatten(self.upsample["proj"](x), self.half_grid), 2))
        if self.skip is not None:
            x = self.skip(torch.cat([x, skipped], 1))
        for block in self.up:
            x = block(x, *condition, None)
        return x

    def run_middle(self, x: Tensor, *condition: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        for index, block in enumerate(self.middle):
            source = skip_source(index, len(self.middle)) if block.skip is not None else None
            x = block(x, *condition, None if source is None else outputs[source])
            outputs.append(x)
        return x
