"""Tiny networks of diffusers with random weights in every layer, as a user's folder would hold them."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from torch import nn

from edgegen.foreign.families.family import Request
from edgegen.foreign.families.guess import guessed_inputs
from edgegen.foreign.families.registry import family_of
from edgegen.foreign.source import Source

TOKENS = 8


def pixart(heads: int = 3, size: int = 16, layers: int = 2, sigma: bool = True) -> tuple[str, dict[str, Any]]:
    width = heads * size
    return "PixArtTransformer2DModel", dict(
        num_attention_heads=heads, attention_head_dim=size, in_channels=4, out_channels=8, num_layers=layers,
        cross_attention_dim=width, sample_size=8, caption_channels=24, use_additional_conditions=not sigma,
    )  # fmt: skip


def sana(heads: int = 2, size: int = 16, layers: int = 2, sprint: bool = False) -> tuple[str, dict[str, Any]]:
    return "SanaTransformer2DModel", dict(
        in_channels=4, out_channels=4, num_attention_heads=heads, attention_head_dim=size, num_layers=layers,
        num_cross_attention_heads=heads, cross_attention_head_dim=size, cross_attention_dim=heads * size,
        caption_channels=24, sample_size=8, guidance_embeds=sprint, qk_norm="rms_norm_across_heads" if sprint else None,
    )  # fmt: skip


def sd3(heads: int = 2, size: int = 16, layers: int = 2, large: bool = True) -> tuple[str, dict[str, Any]]:
    return "SD3Transformer2DModel", dict(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=layers, attention_head_dim=size,
        num_attention_heads=heads, joint_attention_dim=24, caption_projection_dim=heads * size,
        pooled_projection_dim=16, pos_embed_max_size=32, dual_attention_layers=(0,) if large else (),
        qk_norm="rms_norm" if large else None,
    )  # fmt: skip


def lumina_next(heads: int = 4, size: int = 8, layers: int = 2) -> tuple[str, dict[str, Any]]:
    return "LuminaNextDiT2DModel", dict(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=heads * size, num_layers=layers,
        num_attention_heads=heads, num_kv_heads=heads // 2, multiple_of=16, cross_attention_dim=24,
    )  # fmt: skip


def lumina2(heads: int = 3, size: int = 16, layers: int = 2) -> tuple[str, dict[str, Any]]:
    return "Lumina2Transformer2DModel", dict(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=heads * size, num_layers=layers, num_refiner_layers=1,
        num_attention_heads=heads, num_kv_heads=1, multiple_of=16, axes_dim_rope=axes(size), axes_lens=(256, 64, 64),
        cap_feat_dim=24,
    )  # fmt: skip


def axes(size: int) -> tuple[int, int, int]:
    """Rotary channels of three axes, even numbers that sum to a head's size."""
    side = size // 3 // 2 * 2
    return (size - 2 * side, side, side)


def flux(heads: int = 2, size: int = 16, layers: int = 1) -> tuple[str, dict[str, Any]]:
    return "FluxTransformer2DModel", dict(
        in_channels=16, num_layers=layers, num_single_layers=layers + 1, attention_head_dim=size,
        num_attention_heads=heads, joint_attention_dim=24, pooled_projection_dim=16, guidance_embeds=True,
        axes_dims_rope=axes(size),
    )  # fmt: skip


def flux2(heads: int = 2, size: int = 16, layers: int = 1) -> tuple[str, dict[str, Any]]:
    return "Flux2Transformer2DModel", dict(
        in_channels=16, num_layers=layers, num_single_layers=layers + 1, attention_head_dim=size,
        num_attention_heads=heads, joint_attention_dim=24, timestep_guidance_channels=32,
        axes_dims_rope=(size // 4,) * 4, guidance_embeds=False,
    )  # fmt: skip


def qwen_image(heads: int = 2, size: int = 16, layers: int = 2) -> tuple[str, dict[str, Any]]:
    return "QwenImageTransformer2DModel", dict(
        patch_size=2, in_channels=16, out_channels=4, num_layers=layers, attention_head_dim=size,
        num_attention_heads=heads, joint_attention_dim=24, axes_dims_rope=axes(size),
    )  # fmt: skip


def z_image(heads: int = 3, size: int = 16, layers: int = 2) -> tuple[str, dict[str, Any]]:
    return "ZImageTransformer2DModel", dict(
        in_channels=4, dim=heads * size, n_layers=layers, n_refiner_layers=1, n_heads=heads, n_kv_heads=heads,
        cap_feat_dim=24, axes_dims=list(axes(size)), axes_lens=[256, 64, 64],
    )  # fmt: skip


FAMILIES = {f.__name__: f for f in (pixart, sana, sd3, lumina_next, lumina2, flux, flux2, qwen_image, z_image)}
OTHERS = {  # no family declares these
    "dit": ("DiTTransformer2DModel", dict(num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
                                          num_layers=2, sample_size=8, num_embeds_ada_norm=10)),
    "auraflow": ("AuraFlowTransformer2DModel", dict(sample_size=8, in_channels=4, num_mmdit_layers=1, out_channels=4,
                                                    num_single_dit_layers=1, attention_head_dim=16,
                                                    num_attention_heads=2,
                                                    joint_attention_dim=24, caption_projection_dim=32,
                                                    pos_embed_max_size=64)),
    "cogview3": ("CogView3PlusTransformer2DModel", dict(patch_size=2, in_channels=4, num_layers=2,
                                                        attention_head_dim=16,
                                                        num_attention_heads=2, out_channels=4, text_embed_dim=24,
                                                        time_embed_dim=32, condition_dim=8, pos_embed_max_size=16,
                                                        sample_size=8)),
}  # fmt: skip


def build(class_name: str, config: dict[str, Any], seed: int = 0) -> nn.Module:
    """A network of diffusers; layers that training starts at zero would hide mistakes, so that none is zero."""
    torch.manual_seed(seed)
    return scrambled(getattr(diffusers, class_name)(**config), seed)


def scrambled(module: nn.Module, seed: int = 0) -> nn.Module:
    """With random numbers in every parameter."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        scale = p[0].numel() ** -0.5 if p.ndim > 1 else 0.2
        p.data = noise * scale + (1.0 if p.ndim == 1 and name.endswith("weight") else 0.0)
    return module.eval().requires_grad_(False)


def source(class_name: str, config: dict[str, Any], height: int = 8, width: int = 8, tokens: int = TOKENS) -> Source:
    """A tiny network as an export takes it."""
    module, family = build(class_name, config), family_of(class_name)

    def inputs(seed: int) -> dict[str, Any]:
        ask = Request(height, width, tokens, seed)
        values = dict(module.config)
        return family.inputs(values, ask) if family else guessed_inputs(module, values, ask)

    recorded = family.prepare(module) if family else module
    return Source(
        "network", recorded, inputs(0), {"kind": "test", "name": class_name}, family.constant if family else (), inputs
    )
