"""What the transformer learns from: latents and captions as the earlier stages' frozen results see them."""

from __future__ import annotations

import numpy as np

from edgegen.model.autoencoder import Encoder
from edgegen.model.text import TextEncoders, Tokenizers
from edgegen.train.data import EmojiData, cache_latents, cache_text
from edgegen.train.loop import CaptionedLatents


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
