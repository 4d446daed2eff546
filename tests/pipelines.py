"""Tiny pipelines of diffusers with random weights in every network, saved as a user's folder would hold them."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase, printable
from typing import Any

import diffusers
import torch
import transformers
from foreign import FAMILIES, build, scrambled

WIDTH = 24  # of text, as the tiny transformers of foreign.py take it


def clip_tokenizer() -> Any:
    vocab = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for letter in printable.strip():
        vocab |= {letter: len(vocab), f"{letter}</w>": len(vocab) + 1}
    return transformers.CLIPTokenizer(vocab, [], model_max_length=77)


def t5_tokenizer() -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((c, -3.0) for c in ascii_lowercase)]
    return transformers.T5Tokenizer(pieces, extra_ids=0, model_max_length=512)


def gemma_tokenizer() -> Any:
    """Few letters: unknown ones become one token together, which keeps SANA's long instructions short."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *"xcqz"]
    return transformers.GemmaTokenizer({p: i for i, p in enumerate(pieces)}, [])


def clip(width: int, projected: bool) -> Any:
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    torch.manual_seed(1)
    config = transformers.CLIPTextConfig(
        vocab_size=256, hidden_size=width, intermediate_size=32, projection_dim=width, num_hidden_layers=2,
        num_attention_heads=2, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return scrambled(kind(config), 1)


def t5() -> Any:
    config = transformers.T5Config(
        vocab_size=64, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=3, feed_forward_proj="gated-gelu"
    )
    return scrambled(transformers.T5EncoderModel(config), 2)


def gemma() -> Any:
    config = transformers.Gemma2Config(
        vocab_size=128, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, pad_token_id=0, eos_token_id=1, bos_token_id=2, sliding_window=4096,
    )  # fmt: skip
    return scrambled(transformers.Gemma2Model(config), 3)


def autoencoder(**settings: Any) -> Any:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    given = dict(block_out_channels=(16, 16), latent_channels=4, norm_num_groups=4) | blocks
    return scrambled(diffusers.AutoencoderKL(**(given | settings)))


def deep_autoencoder() -> Any:
    """Of SANA: linear attention over multiples in its deepest block."""
    kinds = ("ResBlock", "EfficientViTBlock")
    return scrambled(
        diffusers.AutoencoderDC(
            latent_channels=4,
            attention_head_dim=8,
            encoder_block_out_channels=(8, 16),
            scaling_factor=0.4,
            decoder_block_out_channels=(8, 16),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_block_types=kinds,
            decoder_block_types=kinds,
            encoder_qkv_multiscales=((), (3,)),
            decoder_qkv_multiscales=((), (3,)),
            upsample_block_type="interpolate",
            downsample_block_type="Conv",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
        )  # fmt: skip
    )


def pixart() -> Any:
    return diffusers.PixArtSigmaPipeline(
        transformer=build(*FAMILIES["pixart"](layers=1)), vae=autoencoder(scaling_factor=0.13), text_encoder=t5(),
        tokenizer=t5_tokenizer(), scheduler=diffusers.DPMSolverMultistepScheduler(),
    )  # fmt: skip


def sd3() -> Any:
    return diffusers.StableDiffusion3Pipeline(
        transformer=build(*FAMILIES["sd3"](layers=1)), vae=autoencoder(scaling_factor=1.5, shift_factor=0.06),
        text_encoder=clip(8, True), tokenizer=clip_tokenizer(), text_encoder_2=clip(8, True),
        tokenizer_2=clip_tokenizer(), text_encoder_3=t5(), tokenizer_3=t5_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip


def flux() -> Any:
    return diffusers.FluxPipeline(
        transformer=build(*FAMILIES["flux"](layers=1)), vae=autoencoder(scaling_factor=0.36, shift_factor=0.11),
        text_encoder=clip(16, False), tokenizer=clip_tokenizer(), text_encoder_2=t5(), tokenizer_2=t5_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )  # fmt: skip


def sana() -> Any:
    return diffusers.SanaPipeline(
        transformer=build(*FAMILIES["sana"](layers=1)), vae=deep_autoencoder(), text_encoder=gemma(),
        tokenizer=gemma_tokenizer(),
        scheduler=diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )  # fmt: skip


def sana_sprint() -> Any:
    return diffusers.SanaSprintPipeline(
        transformer=build(*FAMILIES["sana"](layers=1, sprint=True)), vae=deep_autoencoder(), text_encoder=gemma(),
        tokenizer=gemma_tokenizer(), scheduler=diffusers.SCMScheduler(prediction_type="trigflow"),
    )  # fmt: skip


PIPELINES = {f.__name__: f for f in (pixart, sd3, flux, sana, sana_sprint)}


def save_pipeline(name: str, folder: Path) -> Any:
    """The pipeline, and its folder."""
    made = PIPELINES[name]()
    made.save_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made
