"""What the transformer learns from: latents and captions as the earlier stages' frozen results see them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgegen.emoji.data import EmojiData
from edgegen.emoji.scene_pictures import Sprites
from edgegen.emoji.scenes import SceneSource
from edgegen.model.autoencoder import Encoder
from edgegen.model.text import TextEncoders, Tokenizers
from edgegen.runs.device import native_bfloat16
from edgegen.runs.progress import StepReport
from edgegen.train.data.captioned_latents import CaptionedLatents
from edgegen.train.data.encoded import cache_latents, cache_text
from edgegen.train.data.scene_data import Pool, SceneLatents, scene_pool, scene_validation

WATCHED_SCENES = 256  # new scenes of known facts, whose loss is watched
WATCHED_SEED = 1


def captioned_latents(
    data: EmojiData, encoder: Encoder, tokenizers: Tokenizers, text: TextEncoders
) -> CaptionedLatents:
    """The latents of all pictures and every caption's tokens; caption 0 is the empty prompt."""
    prompts = ["", *sorted({caption for record in data.records for caption in record.captions})]
    row_of = {prompt: row for row, prompt in enumerate(prompts)}
    tokens, mask, _ = cache_text(prompts, tokenizers, text)  # (K,L,T), (K,L)
    return CaptionedLatents(
        latents=cache_latents(np.ascontiguousarray(data.images), encoder),  # (M,C,h,w)
        captions=[[row_of[caption] for caption in record.captions] for record in data.records],
        text=tokens,
        mask=mask,
        word_tokens=tokenizers.word_length if tokenizers.word is not None else 0,
    )


def scene_latents(
    singles: CaptionedLatents,
    count: int,
    single_share: float,
    data_dir: Path,
    encoder: Encoder,
    tokenizers: Tokenizers,
    text: TextEncoders,
) -> tuple[SceneLatents, CaptionedLatents]:
    """What is trained on, a pool of `count` scenes and single pictures, and the scenes that are watched.

    Text is encoded in bfloat16 where the processor has it: by the processor and not by a measurement, so
    that a resumed run sees the same text.
    """
    sprites = Sprites.load(data_dir)
    pool = make_pool(SceneSource("train"), count, sprites, encoder, data_dir / "scenes.safetensors")
    watched = make_pool(
        SceneSource("train", seed=WATCHED_SEED),
        WATCHED_SCENES,
        sprites,
        encoder,
        data_dir / "watched_scenes.safetensors",
    )
    data = SceneLatents.build(pool, singles, single_share, tokenizers, text, native_bfloat16())
    return data, scene_validation(watched, tokenizers, text)


def make_pool(source: SceneSource, count: int, sprites: Sprites, encoder: Encoder, cache: Path) -> Pool:
    """The pool of a source's first scenes, with a bar while they are drawn and encoded."""
    steps = iter(StepReport("scenes", count > WATCHED_SCENES).track(0, count))

    def report(done: int) -> None:
        while next(steps, count) < done - 1:
            pass

    return scene_pool(source, count, sprites, encoder, cache, report)
