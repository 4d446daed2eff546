"""Two small text encoders, of words and of bytes, projected to one width and joined along the tokens.

Shapes: B batch, Lw word tokens, Lb byte tokens, L = Lw + Lb, T text width. Token id 0 is padding in both.
Plain Linear, LayerNorm, matmul and softmax, and finite masks, so that every exporter takes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.model.tokenizer_file import encode, read_word_tokenizer
from edgegen.schema import Range, from_values
from edgegen.strict_json import parse_json, read_bytes

PAD = 0
MASKED = -1e4  # added to masked scores; finite in float16


@dataclass(frozen=True)
class EncoderConfig:
    """One transformer over token ids."""

    vocabulary: Annotated[int, Range(2, 2**20)]
    length: Annotated[int, Range(2, 4096)]  # tokens, padded
    width: Annotated[int, Range(1, 2**14)]
    depth: Annotated[int, Range(1, 128)]
    heads: Annotated[int, Range(1, 256)]
    ffn_ratio: Annotated[int, Range(1, 16)]

    def __post_init__(self):
        if self.width % self.heads:
            raise InputError(f"Text width {self.width} does not divide by {self.heads} heads.", "Change either.")


@dataclass(frozen=True)
class TextConfig:
    """Up to two encoders and the width they are projected to; an encoder that is None is absent."""

    word: EncoderConfig | None = EncoderConfig(vocabulary=3072, length=32, width=256, depth=3, heads=4, ffn_ratio=3)
    byte: EncoderConfig | None = EncoderConfig(vocabulary=258, length=64, width=192, depth=3, heads=3, ffn_ratio=4)
    width: Annotated[int, Range(1, 2**14)] = 256

    def __post_init__(self):
        for name in ("word", "byte"):
            if isinstance(getattr(self, name), dict):  # read from JSON
                object.__setattr__(self, name, from_values(EncoderConfig, getattr(self, name), name))
        if self.word is None and self.byte is None:
            raise InputError("The text config has neither a word nor a byte encoder.", "Give at least one.")


class TextBlock(nn.Module):
    """Pre-norm self-attention and GELU feed-forward."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, config.ffn_ratio * width)
        self.down = nn.Linear(config.ffn_ratio * width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x), bias)  # (B,L,D)
        return x + self.down(F.gelu(self.up(self.norm2(x))))  # (B,L,D)

    def attend(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (self._split(layer(x)) for layer in (self.q, self.k, self.v))  # (B,heads,L,d)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias  # (B,heads,L,L)
        values = scores.softmax(-1) @ v  # (B,heads,L,d)
        return self.out(values.transpose(1, 2).flatten(2))  # (B,L,D)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B,heads,L,d)


class TextEncoder(nn.Module):
    """Token ids (B,L), padded with 0, to features (B,L,D); at padding the features mean nothing."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Parameter(0.02 * torch.randn(config.length, config.width))
        self.blocks = nn.ModuleList(TextBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embedding(ids) + self.positions[: ids.shape[1]]  # (B,L,D)
        bias = (1 - mask[:, None, None, :]) * MASKED  # (B,1,1,L)
        for block in self.blocks:
            x = block(x, bias)  # (B,L,D)
        return self.norm(x)  # (B,L,D)


class TextEncoders(nn.Module):
    """The word and byte encoders, each with a projection of its own to the common width T; either may be absent."""

    def __init__(self, config: TextConfig):
        super().__init__()
        present = {name: part for name in ("word", "byte") if (part := getattr(config, name)) is not None}
        self.encoders = nn.ModuleDict({name: TextEncoder(part) for name, part in present.items()})
        self.projections = nn.ModuleDict({name: nn.Linear(part.width, config.width) for name, part in present.items()})

    def forward(self, word_ids: Tensor | None, byte_ids: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Ids (B,Lw) and (B,Lb) int32, either None, to text (B,L,T), mask (B,L) of 0 and 1, and pooled (B,T).

        Words come first. Text is zero at padding; pooled is the mean over the real tokens.
        """
        given = {name: ids for name, ids in (("word", word_ids), ("byte", byte_ids)) if ids is not None}
        if not given or not given.keys() <= self.encoders.keys():
            raise InputError(
                f"Ids were given for {sorted(given)}, the encoders present are {sorted(self.encoders)}.",
                "Give ids for at least one encoder, and only for those present.",
            )
        encoded = [self.encode(name, ids) for name, ids in given.items()]
        text = torch.cat([part for part, _ in encoded], dim=1)  # (B,L,T)
        mask = torch.cat([part for _, part in encoded], dim=1)  # (B,L)
        return text, mask, masked_mean(text, mask)

    def encode(self, name: str, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens (B,L,T) of one encoder, zero at padding, and their mask (B,L)."""
        mask = (ids != PAD).to(self.projections[name].weight.dtype)  # (B,L)
        text = self.projections[name](self.encoders[name](ids, mask))  # (B,L,T)
        return text * mask[..., None], mask


def masked_mean(text: Tensor, mask: Tensor) -> Tensor:
    """The mean (B,T) of the tokens (B,L,T) whose mask (B,L) is 1; zero where there is none."""
    return (text * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


@dataclass(frozen=True)
class TokenIds:
    """Ids of a list of prompts, padded with 0; an absent encoder's are None."""

    word: np.ndarray | None  # (B,Lw) int32
    byte: np.ndarray | None  # (B,Lb) int32
    truncated: np.ndarray  # (B,) bool: some encoder did not see the whole prompt

    def tensors(self) -> tuple[Tensor | None, Tensor | None]:
        """The arguments of `TextEncoders.forward`."""
        word, byte = (None if ids is None else torch.from_numpy(ids) for ids in (self.word, self.byte))
        return word, byte


@dataclass(frozen=True)
class ByteTokenizer:
    """One id that begins, then a prompt's UTF-8 bytes plus an offset, ASCII capitals lowered."""

    length: Annotated[int, Range(1, 4096)] = 64
    offset: Annotated[int, Range(1, 1024)] = 2
    begin: Annotated[int, Range(1, 2**20)] = 1

    @property
    def vocabulary(self) -> int:
        return max(256 + self.offset, self.begin + 1)

    def encode(self, prompt: str) -> list[int]:
        return [self.begin] + [byte + self.offset for byte in prompt.encode("utf-8").lower()]


class Tokenizers:
    """The tokenizers of a checkpoint: `word.json` (WordPiece) and `byte.json`, either of which may be missing."""

    def __init__(self, word: Tokenizer | None, byte: ByteTokenizer | None, word_length: int = 32):
        self.word, self.byte, self.word_length = word, byte, word_length
        if word is not None:
            word.no_padding()
            word.no_truncation()

    @classmethod
    def load(cls, folder: Path) -> "Tokenizers":
        """Read the files in `folder`; the word file's own padding gives its length."""
        paths = [path for name in ("word.json", "byte.json") if (path := Path(folder) / name).is_file()]
        if not paths:
            raise InputError(f"{folder} has neither word.json nor byte.json.", "Give the folder of a checkpoint.")
        return make_tokenizers({path.name: read_bytes(path) for path in paths})

    def encode(self, prompts: list[str]) -> TokenIds:
        """Ids of each prompt at the encoders' fixed lengths."""
        truncated = np.zeros(len(prompts), bool)
        word = byte = None
        if self.word is not None:
            closing = self.word.token_to_id("[SEP]")
            word = _pad(encode(self.word, prompts), self.word_length, truncated, closing)
        if self.byte is not None:
            byte = _pad([self.byte.encode(prompt) for prompt in prompts], self.byte.length, truncated)
        return TokenIds(word, byte, truncated)


def make_tokenizers(files: Mapping[str, bytes]) -> Tokenizers:
    """The tokenizers in files by name; the word file's own padding gives its length. InputError for what is wrong."""
    word, length = read_word_tokenizer(files["word.json"]) if "word.json" in files else (None, 0)
    byte = None
    if "byte.json" in files:
        byte = from_values(ByteTokenizer, parse_json(files["byte.json"], "byte.json"), "byte.json")
    return Tokenizers(word, byte, length)


def _pad(rows: list[list[int]], length: int, truncated: np.ndarray, closing: int | None = None) -> np.ndarray:
    """Rows cut or padded to (B,length) int32; cut rows are marked in `truncated` and end in `closing` if given."""
    ids = np.full((len(rows), length), PAD, np.int32)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row[:length]
        if len(row) > length:
            truncated[index] = True
            ids[index, -1] = row[length - 1] if closing is None else closing
    return ids
