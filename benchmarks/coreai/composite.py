"""The batched form with Apple's composite operations: attention, RMS norm and rotation, named as such in the program.

What its GPU takes as one operation each; the Neural Engine has no attention of all heads at once.
"""

from __future__ import annotations

from pathlib import Path

import coreai_torch
import torch
import torch.nn.functional as F
from coreai_torch.composite_ops import RMSNormImpl, RoPE
from torch import Tensor, nn

from edgegen.emit.half import to_half_
from edgegen.quiet import quiet
from edgegen.rewrite.batched import BatchedHeadNorm
from edgegen.rewrite.component import Component
from edgegen.rewrite.rotary import BatchedRope


class CompositeNorm(nn.Module):
    """A head's norm as Apple's composite."""

    def __init__(self, source: BatchedHeadNorm):
        super().__init__()
        self.weight, self.norm = source.weight, RMSNormImpl(source.eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x, self.weight)


class CompositeRope(nn.Module):
    """Rotary positions as Apple's composite."""

    cos: Tensor
    sin: Tensor

    def __init__(self, source: BatchedRope):
        super().__init__()
        self.rope, half = RoPE(), source.cos.shape[-1] // 2
        self.register_buffer("cos", source.cos[0, :, 0, :half])  # (S, E/2)
        self.register_buffer("sin", source.sin[0, :, 0, :half])

    def forward(self, x: Tensor) -> Tensor:
        turned = self.rope(x.transpose(1, 2), self.cos, self.sin)  # (B, n, S, E)
        return turned.transpose(1, 2).flatten(2)  # (B, S, n*E)


COMPOSITES = {BatchedHeadNorm: CompositeNorm, BatchedRope: CompositeRope}
EXTERNAL = (
    coreai_torch.ExternalizeSpec(RMSNormImpl, "rms_norm", ["axes", "eps", "version"]),
    coreai_torch.ExternalizeSpec(RoPE, "rope", ["scale", "base", "dims", "interleaved", "version"]),
)


def attend(q: Tensor, k: Tensor, v: Tensor, size: int, bias: Tensor | None = None) -> Tensor:
    """What `attend_batched` does, as one operation; its bias has the rows of all query heads or one for all."""
    batch, tokens = q.shape[:2]
    groups = k.shape[2] // size
    queries = q.reshape(batch, tokens, -1, size).transpose(1, 2)  # (B, H, S, E)
    keys, values = (t.reshape(batch, -1, groups, size).transpose(1, 2) for t in (k, v))  # (B, G, M, E)
    if bias is not None:
        bias = bias[:, None, :tokens].expand(batch, 1, tokens, -1)  # repeated a query head
    out = F.scaled_dot_product_attention(queries, keys, values, bias, scale=1.0, enable_gqa=True)
    return out.transpose(1, 2).reshape(batch, tokens, -1)


def compose_(module: nn.Module) -> None:
    """Puts composites into a module of the batched form."""
    for child in list(module.modules()):
        if hasattr(child, "attend"):
            child.attend = attend
        for name, part in list(child.named_children()):
            if type(part) in COMPOSITES:
                setattr(child, name, COMPOSITES[type(part)](part))


def write(component: Component, path: Path, precision: str) -> None:
    """Converts a component of the batched form; norms and rotations are externalized as Apple's own exporter does."""

    def export(module: nn.Module) -> torch.export.ExportedProgram:
        with torch.no_grad():
            program = torch.export.export(module, component.example(), strict=False)
        program = program.run_decompositions(coreai_torch.get_decomp_table())
        if precision == "float16":
            to_half_(program)
        return program

    compose_(component.module)
    with quiet():
        converter = coreai_torch.TorchConverter(mode=coreai_torch.TorchConverter.Mode.RELEASE)
        converter.add_pytorch_module(
            component.module.eval(),
            export_fn=export,
            externalize_modules=list(EXTERNAL),
            input_names=[spec.name for spec in component.inputs],
            output_names=[spec.name for spec in component.outputs],
        )
        converter.to_coreai().save_asset(path)
