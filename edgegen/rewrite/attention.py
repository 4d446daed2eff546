"""Attention in its deployable forms: split by head (split.py) or batched over heads and blocks (batched.py)."""

from __future__ import annotations

from torch import nn

from edgegen.errors import InputError
from edgegen.model.attention import CrossAttention, SelfAttention, SparseSelfAttention
from edgegen.rewrite.batched import BatchedCrossAttention, BatchedSelfAttention, BatchedSparseSelfAttention
from edgegen.rewrite.component import Form
from edgegen.rewrite.split import SplitCrossAttention, SplitSelfAttention, SplitSparseSelfAttention

MASKED = -1e4  # finite in fp16, unlike -inf


def self_attention(source: SelfAttention, grid: tuple[int, int], form: Form) -> nn.Module:
    """A self-attention layer in the given form; only ASSA of both branches is deployed."""
    split = form.attention == "split"
    if not isinstance(source, SparseSelfAttention):
        return (SplitSelfAttention if split else BatchedSelfAttention)(source, grid, form)
    if source.config.assa != "both":
        raise InputError(
            f"assa {source.config.assa!r} is for studies and has no deployed form.",
            "Export a model trained with assa both.",
        )
    return (SplitSparseSelfAttention if split else BatchedSparseSelfAttention)(source, grid, form)


def cross_attention(source: CrossAttention, form: Form) -> nn.Module:
    """A cross-attention layer in the given form."""
    return (SplitCrossAttention if form.attention == "split" else BatchedCrossAttention)(source, form)
