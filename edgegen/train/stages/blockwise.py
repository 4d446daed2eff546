"""The supernet run block by block, so that each block can be sharded over processes or recomputed in the backward pass.

`ElasticDiT` swaps all weights of a sub-width in one call. Here every block slices its own weights inside its own call:
FSDP then gathers one block at a time, and a recomputed block slices again. Parameters, names and results are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from edgegen.model.blocks import Block
from edgegen.model.config import DiTConfig
from edgegen.model.dit import DiT
from edgegen.model.elastic import ElasticDiT, is_own, key, skeleton, slice_parameter

GATHERED = "run_gathered"  # the method of a block that FSDP surrounds with its hooks


class BorrowedBlock(nn.Module):
    """A block of one width without weights of its own: it slices those of the full model's block when called."""

    def __init__(self, outline: Block, source: Block, own: nn.ParameterDict | None, prefix: str, recompute: bool):
        super().__init__()
        self.shapes = {n: p.shape for n, p in outline.named_parameters()}
        self.has_skip = outline.skip is not None
        # in a tuple, so that torch registers none of them as ours
        self.lenders = (outline, source, own)
        self.prefix, self.recompute = prefix, recompute

    @property
    def skip(self) -> bool | None:
        """What `DiT.run_middle` asks of a block: whether a long skip joins its input."""
        return self.has_skip or None

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        return getattr(self.lenders[1], GATHERED)(self.run, *inputs, **named)

    def run(self, *inputs: Any, **named: Any) -> Tensor:
        if self.recompute:
            return checkpoint(self.call, *inputs, use_reentrant=False, **named)
        return self.call(*inputs, **named)

    def call(self, *inputs: Any, **named: Any) -> Tensor:
        return functional_call(self.lenders[0], self.weights(), inputs, named)

    def weights(self) -> dict[str, Tensor]:
        """Name to tensor: slices of the full block's weights as they are now, and the width's own."""
        _, source, own = self.lenders
        full = dict(source.named_parameters())
        if own is None:
            return full
        return {
            n: own[key(f"{self.prefix}{n}")] if is_own(f"{self.prefix}{n}") else slice_parameter(n, full[n], shape)
            for n, shape in self.shapes.items()
        }


class BlockwiseElastic(ElasticDiT):
    """An `ElasticDiT` whose blocks are called one by one; `recompute` is activation checkpointing of each block."""

    def __init__(self, config: DiTConfig, seed: int = 0, recompute: bool = False):
        super().__init__(config, seed)
        self.recompute = recompute
        for block in self.blocks().values():
            setattr(block, GATHERED, MethodType(call_through, block))
        self._outlines = {width: self.outline(width) for width in config.widths}  # a plain dict: no parameters of ours

    def blocks(self) -> dict[str, Block]:
        """The full model's blocks by name, such as `down.0`."""
        return {
            f"{stage}.{i}": block for stage in self.config.stages for i, block in enumerate(getattr(self.full, stage))
        }

    def outline(self, width: float) -> DiT:
        """The plain model of a width on no memory, its blocks replaced by borrowers."""
        outline = skeleton(self.config.at(width))
        own = None if width == 1.0 else self.own[key(str(width))]
        for name, source in self.blocks().items():
            stage, index = name.split(".")
            blocks = getattr(outline, stage)
            blocks[int(index)] = BorrowedBlock(blocks[int(index)], source, own, f"{name}.", self.recompute)
        return outline

    def outer_parameters(self, width: float) -> dict[str, Tensor]:
        """Name to tensor of everything outside the blocks, sliced to a width."""
        full, own = dict(self.full.named_parameters()), None if width == 1.0 else self.own[key(str(width))]
        wanted = {n: p.shape for n, p in self._outlines[width].named_parameters()}
        if own is None:
            return {n: full[n] for n in wanted}
        return {n: own[key(n)] if is_own(n) else slice_parameter(n, full[n], shape) for n, shape in wanted.items()}

    def forward(self, width: float, *inputs: Tensor | None) -> Tensor:
        self.config.at(width)  # refuses an unknown width
        return functional_call(self._outlines[width], self.outer_parameters(width), inputs)


def call_through(block: Block, run: Callable[..., Tensor], *inputs: Any, **named: Any) -> Tensor:
    """Runs a function that reads the block's parameters; FSDP gathers them around this call.

    The inputs pass through here because FSDP learns from their gradients when the block's are complete.
    """
    return run(*inputs, **named)


def shard_(model: BlockwiseElastic) -> BlockwiseElastic:
    """Shards a supernet in place with FSDP2: every block is gathered on its own, the rest together."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for block in model.blocks().values():
        fully_shard(block)
        register_fsdp_forward_method(block, GATHERED)
    return fully_shard(model)
