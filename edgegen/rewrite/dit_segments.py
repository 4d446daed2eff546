"""The deployed transformer cut between its blocks; each part keeps the names that its weights have in the whole.

Values between the parts: `embedding` (B, D), `modulation` (B, 6D), `tokens`, the text, and `bias`, all in the layout of
the form, and the output of each block under the block's name.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgegen.model.dit import skip_source
from edgegen.rewrite.attention import MASKED
from edgegen.rewrite.dit import DeployedDiT
from edgegen.rewrite.layout import ChannelsFirst
from edgegen.rewrite.segments import Segment


class Opening(nn.Module):
    """What comes before the first block: latent, timestep_features, text_mask[, pooled_text][, text] -> patches,
    embedding, modulation, bias[, tokens].
    """

    def __init__(self, source: DeployedDiT):
        super().__init__()
        self.layout, self.modulation, self.patch = source.layout, source.modulation, source.patch

    def forward(
        self, latent: Tensor, timestep_features: Tensor, text_mask: Tensor, *others: Tensor
    ) -> tuple[Tensor, ...]:
        layout, rest = (
            self.layout,
            list[Tensor](others),
        )  # pooled_text where the modulation adds it, text where it changes
        bias = text_mask * -MASKED + MASKED
        pooled = None if self.modulation.pooled is None else layout.accept(rest.pop(0))
        made = layout.flatten(self.patch(latent)), *self.modulation(layout.accept(timestep_features), pooled)
        if layout is ChannelsFirst:
            return *made, bias
        return *made, bias.reshape(bias.shape[0], 1, bias.shape[1]), layout.accept(rest.pop(0))


class Downsample(nn.Module):
    """Between the first stage and the middle."""

    def __init__(self, source: DeployedDiT):
        super().__init__()
        self.layout, self.grid, self.downsample = source.layout, source.grid, source.downsample

    def forward(self, x: Tensor) -> Tensor:
        return self.layout.flatten(self.downsample["proj"](self.layout.unflatten(x, self.grid)))


class Upsample(nn.Module):
    """Between the middle and the last stage; joins the output of the first."""

    def __init__(self, source: DeployedDiT):
        super().__init__()
        self.layout, self.half_grid = source.layout, source.half_grid
        self.upsample, self.skip = source.upsample, source.skip

    def forward(self, x: Tensor, skipped: Tensor | None = None) -> Tensor:
        layout = self.layout
        x = layout.flatten(F.pixel_shuffle(layout.unflatten(self.upsample["proj"](x), self.half_grid), 2))
        return x if self.skip is None or skipped is None else self.skip(torch.cat([x, skipped], 1))


class Ending(nn.Module):
    """What comes after the last block."""

    def __init__(self, source: DeployedDiT):
        super().__init__()
        self.layout, self.grid, self.size, self.final = source.layout, source.grid, source.config.patch, source.final

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return F.pixel_shuffle(self.layout.unflatten(self.final(x, embedding), self.grid), self.size)


def dit_segments(source: DeployedDiT) -> tuple[Segment, ...]:
    """The parts in order; together they compute what the whole does."""
    first = source.layout is ChannelsFirst
    pooled = () if source.modulation.pooled is None else ("pooled_text",)
    inputs = ("latent", "timestep_features", "text_mask", *pooled)
    outputs = ("patches", "embedding", "modulation", "bias")
    text = "text" if first else "tokens"
    opening = Segment(
        "opening",
        "",
        Opening(source),
        inputs if first else (*inputs, "text"),
        outputs if first else (*outputs, text),
    )
    segments = [opening, *stages(source, ("modulation", text, "bias"))]
    last = segments[-1].outputs[0]
    return *segments, Segment("ending", "", Ending(source), (last, "embedding"), ("velocity",))


def stages(source: DeployedDiT, condition: tuple[str, ...]) -> Iterator[Segment]:
    """The blocks of all stages and what lies between them."""
    if len(source.config.stages) == 1:
        yield from stage(source, "middle", "patches", condition)
        return
    x = "patches"
    for segment in stage(source, "down", x, condition):
        yield segment
        x = segment.outputs[0]
    skipped = x
    yield Segment("downsample", "", Downsample(source), (x,), ("downsample",))
    x = "downsample"
    for segment in stage(source, "middle", x, condition):
        yield segment
        x = segment.outputs[0]
    joined = (x,) if source.skip is None else (x, skipped)
    yield Segment("upsample", "", Upsample(source), joined, ("upsample",))
    yield from stage(source, "up", "upsample", condition)


def stage(source: DeployedDiT, name: str, x: str, condition: tuple[str, ...]) -> Iterator[Segment]:
    """The blocks of one stage, the first of which reads `x`."""
    blocks = getattr(source, name)
    for index, block in enumerate(blocks):
        made = f"{name}.{index}"
        joins = skip_source(index, len(blocks)) if block.skip is not None else None
        joined = () if joins is None else (f"{name}.{joins}",)
        yield Segment(made, made, block, (x, *condition, *joined), (made,))
        x = made
