"""Tiny random networks of diffusers and transformers, as a user would hand them in: a module and example inputs."""

from __future__ import annotations

import torch

L = 8  # text tokens


def seeded(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pixart(sigma=True, seed=0):
    from diffusers import PixArtTransformer2DModel
    m = PixArtTransformer2DModel(num_attention_heads=3, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=48, sample_size=8 if sigma else 128, caption_channels=24, use_additional_conditions=None)
    def inputs(seed):
        kw = dict(hidden_states=seeded(seed, 1, 4, 8, 8), encoder_hidden_states=seeded(seed+1, 1, L, 24),
            timestep=torch.tensor([seed * 37 % 1000 + 11]), encoder_attention_mask=torch.tensor([[1]*(L-2-seed%2)+[0]*(2+seed%2)]))
        kw["added_cond_kwargs"] = {"resolution": None, "aspect_ratio": None} if sigma else {"resolution": torch.tensor([[64., 64.]]), "aspect_ratio": torch.tensor([[1.0]])}
        return kw
    return m, inputs


def sana(sprint=False):
    from diffusers import SanaTransformer2DModel
    m = SanaTransformer2DModel(in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=16, cross_attention_dim=32, caption_channels=24, sample_size=8,
        guidance_embeds=sprint, qk_norm="rms_norm_across_heads" if sprint else None)
    def inputs(seed):
        kw = dict(hidden_states=seeded(seed, 1, 4, 8, 8), encoder_hidden_states=seeded(seed+1, 1, L, 24),
            timestep=torch.tensor([float(seed * 37 % 1000 + 11)]), encoder_attention_mask=torch.tensor([[1]*(L-2-seed%2)+[0]*(2+seed%2)]))
        if sprint:
            kw["guidance"] = torch.tensor([4.5 + seed])
        return kw
    return m, inputs


def sd3(large=True):
    from diffusers import SD3Transformer2DModel
    m = SD3Transformer2DModel(sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, caption_projection_dim=32, pooled_projection_dim=16, out_channels=4, pos_embed_max_size=12,
        dual_attention_layers=(0,) if large else (), qk_norm="rms_norm" if large else None)
    return m, lambda seed: dict(hidden_states=seeded(seed, 1, 4, 8, 8), encoder_hidden_states=seeded(seed+1, 1, L, 24),
        pooled_projections=seeded(seed+2, 1, 16), timestep=torch.tensor([float(seed*37 % 1000 + 11)]))


def lumina_next():
    from diffusers import LuminaNextDiT2DModel
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina
    m = LuminaNextDiT2DModel(sample_size=8, patch_size=2, in_channels=4, hidden_size=32, num_layers=2, num_attention_heads=4, num_kv_heads=2,
        multiple_of=16, ffn_dim_multiplier=None, norm_eps=1e-5, learn_sigma=True, qk_norm=True, cross_attention_dim=24)
    rope = get_2d_rotary_pos_embed_lumina(8, 8, 8)
    return m, lambda seed: dict(hidden_states=seeded(seed, 1, 4, 8, 8), timestep=torch.tensor([(seed*37 % 100 + 11) / 111]),
        encoder_hidden_states=seeded(seed+1, 1, L, 24), encoder_mask=torch.tensor([[1]*(L-2-seed%2)+[0]*(2+seed%2)]),
        image_rotary_emb=rope, cross_attention_kwargs={}), ("image_rotary_emb",)


def lumina2():
    from diffusers import Lumina2Transformer2DModel
    m = Lumina2Transformer2DModel(sample_size=8, patch_size=2, in_channels=4, hidden_size=48, num_layers=2, num_refiner_layers=1,
        num_attention_heads=3, num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 6, 6), axes_lens=(32, 16, 16), cap_feat_dim=24)
    return m, lambda seed: dict(hidden_states=seeded(seed, 1, 4, 8, 8), timestep=torch.tensor([(seed*37 % 100 + 11) / 111]),
        encoder_hidden_states=seeded(seed+1, 1, L, 24), encoder_attention_mask=torch.ones(1, L, dtype=torch.bool)), ("encoder_attention_mask",)


def ids(h, w, n=3):
    out = torch.zeros(h, w, n)
    out[..., 1] += torch.arange(h)[:, None]
    out[..., 2] += torch.arange(w)[None]
    return out.reshape(-1, n)


def flux():
    from diffusers import FluxTransformer2DModel
    m = FluxTransformer2DModel(in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, pooled_projection_dim=16, guidance_embeds=True, axes_dims_rope=(4, 6, 6))
    return m, lambda seed: dict(hidden_states=seeded(seed, 1, 16, 16), encoder_hidden_states=seeded(seed+1, 1, L, 24),
        pooled_projections=seeded(seed+2, 1, 16), timestep=torch.tensor([(seed*37 % 100 + 11) / 111]), img_ids=ids(4, 4),
        txt_ids=torch.zeros(L, 3), guidance=torch.tensor([3.5 + seed])), ("img_ids", "txt_ids")


def flux2():
    from diffusers import Flux2Transformer2DModel
    m = Flux2Transformer2DModel(in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False)
    def inputs(seed):
        text = torch.zeros(1, L, 4)
        text[..., 3] = torch.arange(L)
        image = torch.zeros(1, 16, 4)
        image[..., 1:3] = ids(4, 4)[:, 1:]
        return dict(hidden_states=seeded(seed, 1, 16, 16), encoder_hidden_states=seeded(seed+1, 1, L, 24),
            timestep=torch.tensor([(seed*37 % 100 + 11) / 111]), img_ids=image, txt_ids=text)
    return m, inputs, ("img_ids", "txt_ids")


def qwen_image():
    from diffusers import QwenImageTransformer2DModel
    m = QwenImageTransformer2DModel(patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, axes_dims_rope=(4, 6, 6))
    return m, lambda seed: dict(hidden_states=seeded(seed, 1, 16, 16), encoder_hidden_states=seeded(seed+1, 1, L, 24),
        encoder_hidden_states_mask=torch.ones(1, L, dtype=torch.bool), timestep=torch.tensor([(seed*37 % 100 + 11) / 111]),
        img_shapes=[[(1, 4, 4)]]), ("encoder_hidden_states_mask",)


def z_image():
    from diffusers import ZImageTransformer2DModel
    m = ZImageTransformer2DModel(in_channels=4, dim=48, n_layers=2, n_refiner_layers=1, n_heads=3, n_kv_heads=3, cap_feat_dim=24,
        axes_dims=[4, 6, 6], axes_lens=[64, 32, 32])
    return m, lambda seed: dict(x=[seeded(seed, 4, 1, 8, 8)], t=torch.tensor([(seed*37 % 100 + 11) / 111]), cap_feats=[seeded(seed+1, L, 24)])


MAKERS = {f.__name__: f for f in (pixart, sana, sd3, lumina_next, lumina2, flux, flux2, qwen_image, z_image)}
MAKERS |= {"pixart_alpha": lambda: pixart(False), "sana_sprint": lambda: sana(True), "sd3_small": lambda: sd3(False)}


def make(name, seed=0):
    """Module with weights that are random in every layer, maker of inputs, names of constant inputs."""
    torch.manual_seed(seed)
    made = MAKERS[name]()
    module, inputs, *constant = made
    generator = torch.Generator().manual_seed(seed)
    for key, p in module.named_parameters():  # what starts at zero would hide mistakes
        noise = torch.randn(p.shape, generator=generator)
        if p.ndim > 1:
            p.data = noise / p[0].numel() ** 0.5
        else:
            p.data = (1.0 if key.endswith("weight") else 0.0) + 0.2 * noise
    return module.eval().requires_grad_(False), inputs, (constant[0] if constant else ())
