"""What the text encoders learn from: captions, their tokens, and the teacher's embedding of each.

Shapes: K captions, E width of the teacher's embeddings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from safetensors import safe_open
from torch import Tensor

from edgegen.emoji.assets import emoji_keywords, emoji_names
from edgegen.emoji.captions import Saying, text_corpus
from edgegen.emoji.minilm import MiniLM
from edgegen.errors import InputError
from edgegen.model.states import write_tensors
from edgegen.model.text import ByteTokenizer, TextConfig, TokenIds, Tokenizers
from edgegen.train.stages.text import corpus_split, save_tokenizers, standardise, train_word_tokenizer

COMMON_WORDS = 7000  # of the teacher's vocabulary, which lists the commonest first


@dataclass(frozen=True)
class TextData:
    """Tokens of K captions, standardised teacher embeddings (K,E), and the split (K,) of `corpus_split`."""

    tokens: TokenIds
    targets: Tensor
    split: np.ndarray


def load_text_data(
    data_dir: Path,
    teacher_dir: Path,
    run_dir: Path,
    config: TextConfig,
    tokenizer_files: Mapping[str, bytes] = MappingProxyType({}),
) -> TextData:
    """Makes tokenizers in `run_dir`, or copies those given, and embeddings in `data_dir`, where they are not there."""
    sayings = emoji_sayings(data_dir, teacher_dir)
    texts = [saying.text for saying in sayings]
    if not (run_dir / "state.safetensors").is_file():
        if tokenizer_files:
            (run_dir / "tokenizer").mkdir(parents=True, exist_ok=True)
            for name, content in tokenizer_files.items():
                (run_dir / "tokenizer" / name).write_bytes(content)
        else:
            make_tokenizers_(run_dir / "tokenizer", sayings, config)
    tokens = Tokenizers.load(run_dir / "tokenizer").encode(texts)
    targets = teacher_targets(texts, teacher_dir, data_dir / "teacher.safetensors")
    return TextData(tokens, standardise(targets), corpus_split(sayings))


def emoji_sayings(data_dir: Path, teacher_dir: Path) -> list[Saying]:
    """Captions of every emoji and keyword, and of the commonest words of the teacher's vocabulary."""
    names = sorted(set(emoji_names(data_dir).values()))
    keywords = sorted({word for words in emoji_keywords(data_dir).values() for word in words} - set(names))
    vocabulary = (teacher_dir / "vocab.txt").read_text(encoding="utf-8").split("\n")
    plain = [word for word in vocabulary if word.isascii() and word.isalpha() and word.islower() and len(word) > 2]
    taken = set(keywords)
    return text_corpus(names, keywords, [word for word in plain if word not in taken][:COMMON_WORDS])


def make_tokenizers_(folder: Path, sayings: list[Saying], config: TextConfig) -> None:
    """Writes the tokenizers of the encoders that the configuration has."""
    word = byte = None
    if config.word is not None:
        texts = [saying.text for saying in sayings if saying.text] + [saying.subject for saying in sayings]
        word = train_word_tokenizer(texts, config.word.vocabulary, config.word.length)
    if config.byte is not None:
        byte = ByteTokenizer(length=config.byte.length)
        if config.byte.vocabulary != byte.vocabulary:
            raise InputError(
                f"model.byte.vocabulary is {config.byte.vocabulary}, there are {byte.vocabulary} ids.",
                "Correct the recipe.",
            )
    save_tokenizers(folder, word, byte)


def teacher_targets(texts: list[str], teacher_dir: Path, cache: Path) -> Tensor:
    """The teacher's embeddings (K,E), read from `cache` when it holds those of the same captions."""
    key = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    if cache.is_file():
        with safe_open(cache, "pt") as file:
            if (file.metadata() or {}).get("texts") == key:
                return file.get_tensor("embeddings")
    embeddings = MiniLM(teacher_dir).embed(texts)  # (K,E)
    write_tensors(cache, {"embeddings": embeddings}, {"texts": key})
    return embeddings
