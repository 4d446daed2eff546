"""Tiny pipelines of diffusers with random weights in every network, saved as a user's folder would hold them."""

from __future__ import annotations

import inspect
from pathlib import Path
from string import ascii_lowercase, printable
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from foreign import FAMILIES, build, scrambled
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing

WORDS = ("a", "red", "fox", "cat", "user", "assistant", "in", "the", "snow", ":", ".", "tea", "lighthouse")
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
    made = transformers.GemmaTokenizer({p: i for i, p in enumerate(pieces)}, [])
    made._tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return made


def word_tokenizer() -> Any:
    """As Qwen's: words instead of bytes, and a template for chats."""
    words = Regex(r"\w+|[^\w\s]")
    core = Tokenizer(WordLevel({w: i for i, w in enumerate(("<pad>", "<unk>", *WORDS))}, unk_token="<unk>"))
    core.pre_tokenizer = Split(words, "isolated")
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", unk_token="<unk>")
    made.chat_template = "{% for m in messages %}user : {{ m['content'] }} . {% endfor %}assistant :"
    return made


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


LANGUAGE = dict(
    vocab_size=128, hidden_size=WIDTH, intermediate_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    pad_token_id=0, eos_token_id=1, bos_token_id=2,
)  # fmt: skip


def gemma(layers: int = 1) -> Any:
    """Of SANA and Lumina2."""
    config = transformers.Gemma2Config(num_hidden_layers=layers, sliding_window=4096, **LANGUAGE)
    return near_one(scrambled(transformers.Gemma2Model(config), 3))


def first_gemma() -> Any:
    """Of Lumina-Next."""
    return near_one(scrambled(transformers.GemmaModel(transformers.GemmaConfig(num_hidden_layers=2, **LANGUAGE)), 3))


def near_one(model: Any) -> Any:
    """A Gemma whose norms multiply by about 1: their weights are what is added to it."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data -= 1.0
    return model


def qwen3(width: int, layers: int) -> Any:
    """Of FLUX.2 (klein) and Z-Image."""
    config = transformers.Qwen3Config(num_hidden_layers=layers, **(LANGUAGE | {"hidden_size": width}))
    return scrambled(transformers.Qwen3ForCausalLM(config), 4)


def qwen_vl() -> Any:
    """Of Qwen-Image; its half for pictures is never read."""
    text = LANGUAGE | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}}
    seeing = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=WIDTH, patch_size=4)
    heads = {"num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1}
    config = transformers.Qwen2_5_VLConfig(text_config=text | heads, vision_config=seeing)
    return scrambled(transformers.Qwen2_5_VLForConditionalGeneration(config), 5)


def autoencoder(kind: type = diffusers.AutoencoderKL, levels: int = 2, **settings: Any) -> Any:
    """A latent for 2^(levels-1) pixels a side."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    given = dict(block_out_channels=(16,) * levels, latent_channels=4, norm_num_groups=4) | blocks
    return scrambled(kind(**(given | settings)))


def second_flux_autoencoder() -> Any:
    """Its pipeline reads statistics of packed latents from it."""
    made = autoencoder(diffusers.AutoencoderKLFlux2)
    made.bn.running_mean.copy_(torch.linspace(-0.4, 0.4, 16))
    made.bn.running_var.copy_(torch.linspace(0.5, 2.0, 16))
    return made


def video_autoencoder() -> Any:
    """Of Qwen-Image: for one frame."""
    numbers = dict(latents_mean=[-0.7, 0.1, 0.3, 0.2], latents_std=[2.8, 1.4, 2.3, 0.9])
    return scrambled(diffusers.AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False], **numbers,
    ))  # fmt: skip


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


def mild() -> Any:
    """A schedule that ends with half a signal: published ones divide what a network says of the noise by 0.006, which
    for the noise of a random network are latents of a thousand.
    """
    return diffusers.DPMSolverMultistepScheduler(beta_end=0.002)


def pixart() -> Any:
    return diffusers.PixArtSigmaPipeline(
        transformer=build(*FAMILIES["pixart"](layers=1)), vae=autoencoder(scaling_factor=0.13), text_encoder=t5(),
        tokenizer=t5_tokenizer(), scheduler=mild(),
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


def pixart_alpha() -> Any:
    """That of 1024 pixels, which is told the picture's size."""
    kind, config = FAMILIES["pixart"](layers=1, sigma=False)
    return diffusers.PixArtAlphaPipeline(
        transformer=build(kind, config | {"sample_size": 128}), vae=autoencoder(scaling_factor=0.18),
        text_encoder=t5(), tokenizer=t5_tokenizer(), scheduler=mild(),
    )  # fmt: skip


def lumina_next() -> Any:
    return diffusers.LuminaPipeline(
        transformer=build(*FAMILIES["lumina_next"](layers=1)), vae=autoencoder(levels=4, scaling_factor=0.13),
        text_encoder=first_gemma(), tokenizer=gemma_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


def lumina2() -> Any:
    return diffusers.Lumina2Pipeline(
        transformer=build(*FAMILIES["lumina2"](layers=1)),
        vae=autoencoder(levels=4, scaling_factor=0.36, shift_factor=0.11), text_encoder=gemma(2),
        tokenizer=gemma_tokenizer(), scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
    )  # fmt: skip


def flux2() -> Any:
    """Its transformer takes three layers of its text encoder side by side: klein's 9, 18 and 27."""
    return diffusers.Flux2KleinPipeline(
        transformer=build(*FAMILIES["flux2"](layers=1)), vae=second_flux_autoencoder(), text_encoder=qwen3(8, 29),
        tokenizer=word_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )  # fmt: skip


def qwen_image() -> Any:
    return diffusers.QwenImagePipeline(
        transformer=build(*FAMILIES["qwen_image"](layers=1)), vae=video_autoencoder(), text_encoder=qwen_vl(),
        tokenizer=word_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )  # fmt: skip


def z_image() -> Any:
    return diffusers.ZImagePipeline(
        transformer=build(*FAMILIES["z_image"](layers=1)), vae=autoencoder(scaling_factor=0.36, shift_factor=0.11),
        text_encoder=qwen3(WIDTH, 2), tokenizer=word_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip


PIPELINES = {
    f.__name__: f
    for f in (
        pixart, pixart_alpha, sd3, flux, sana, sana_sprint, lumina_next, lumina2, flux2, qwen_image, z_image,
    )
}  # fmt: skip


def save_pipeline(name: str, folder: Path) -> Any:
    """The pipeline, and its folder."""
    made = PIPELINES[name]()
    made.save_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


SIZES = {name: (32, 32) for name in ("sana", "sana_sprint", "lumina_next", "lumina2")} | {"z_image": (32, 16)}


def size_of(name: str) -> tuple[tuple[int, int], int]:
    """Width and height in pixels, and text tokens, that a tiny pipeline draws at."""
    return SIZES.get(name, (16, 16)), 32 if name == "z_image" else 24


def drawn_by_diffusers(name: str, pipeline: Any) -> Any:
    """(height, width, 3) in [0, 1] with 8 bits, of two steps from seed 5."""
    (width, height), tokens = size_of(name)
    takes = inspect.signature(pipeline.__call__).parameters
    binning = {"use_resolution_binning": False} if "use_resolution_binning" in takes else {}
    made = pipeline(
        prompt="a red cat", height=height, width=width, num_inference_steps=2, max_sequence_length=tokens,
        output_type="np", generator=torch.Generator().manual_seed(5), **binning,
    ).images[0]  # fmt: skip
    return np.round(255 * made) / 255
