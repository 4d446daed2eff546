"""Prompts and the ids that edgegen's tokenizers give them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import edgegen
from edgegen.model.text import Tokenizers

TOKENIZER = "edgegen/weights/emoji/tokenizer"  # from the repository's root
FOLDER = Path(edgegen.__file__).parent / "weights" / "emoji" / "tokenizer"
RANDOM_PROMPTS = 160
POOL = [  # what the rules of tokenizers are about, and ordinary letters
    *"abcdeghinorst AEIOU 0123456789 !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    *"äöüßéèçñøåÅÄÖÜŁłİıſẞ",
    *"αβγδΣςάΆ",
    *"собакаЁйЙ",
    *"عربيש",
    *"हिंदी",
    *"漢字仮名かカ한글",
    *"ﷺﬁ½²Ⅷ№",
    *"\t\n\r\u00a0\u2003\u3000\u0085\u2028",
    *"\x00\x01\x1b\x7f\u200b\u200d\ufeff\u00ad\ue000\ufffd\ufe0f",
    *"\u0301\u0308\u0323\u1e9b\u0344",
    *"–—“”„«»…¿¡·†€£§©™°",
    *"😀❤🚀👍🏽🇩🇪\U00020000\U0001d11e\U0001e922",
]
PROMPTS: list[tuple[str, str | dict]] = [
    ("empty", ""),
    ("spaces", "   \t\n "),
    ("plain", "three stars"),
    ("capitals", "A Big RED Heart"),
    ("bundle prompt", "a flat penguin and a flat balloon"),
    ("punctuation", "red-heart, (blue) dog's! 3d/flat?"),
    ("ascii symbols", "$1+2=3 a^b `c` <d> |e| ~f"),
    ("unicode punctuation", "“heart” – dog… ¿star? «sun»"),
    ("symbols that are no punctuation", "5 € © ™ ° ½ ²"),
    ("typed special tokens", "[CLS] heart [SEP] [PAD] [UNK]"),
    ("umlauts", "ein süßer Bär mit Äpfeln"),
    ("sharp s", "STRASSE Straße STRAẞE"),
    ("combining marks", "cafe\u0301 café"),
    ("vietnamese", "một ngôi sao đỏ"),
    ("turkish dotted i", "İstanbul ışık I i"),
    ("greek final sigma", "ΣΊΣΥΦΟΣ σκύλος"),
    ("cyrillic", "красное сердце й ё"),
    ("arabic", "قلب أحمر"),
    ("hebrew with points", "שָׁלוֹם"),
    ("hindi", "लाल दिल"),
    ("thai", "หัวใจสีแดง"),
    ("chinese", "红色的心"),
    ("chinese beside latin", "a红heart色b"),
    ("japanese", "赤いハート ガ"),
    ("korean", "빨간 하트"),
    ("rare chinese", "\U00020000\U0002a6df x"),
    ("compatibility ideograph", "\uf900 \U0002f800"),
    ("emoji", "❤️ 😀 👩‍🚀 🇩🇪 👍🏽"),
    ("emoji beside words", "red❤heart😀"),
    ("mathematical letters", "𝔥𝔢𝔞𝔯𝔱 ℍ"),
    ("adlam capitals", "\U0001e900\U0001e922"),
    ("ligatures", "ﬁre ﬂat"),
    ("full width", "ｈｅａｒｔ　３Ｄ！"),
    ("control characters", "he\x00art\x01 r\x1bed\x7f d\x0bo\x0cg \ufffd"),
    ("formats", "he\u200bart r\u00aded \ufeffdog\u200f"),
    ("private use", "he\ue000art \U000f0000"),
    ("line ends", "red\r\nheart\rblue\ttab"),
    ("odd spaces", "red\u00a0heart\u2003blue\u3000dog\u2028end\u0085x"),
    ("unassigned", "heart\u0378 \U000e0080x"),
    ("noncharacter", "red\ufdd0heart \U0010fffe"),
    ("marks alone", "\u0301\u0308"),
    ("enclosing mark", "a\u20dd b\u0489"),
    ("spacing mark", "क\u093f"),
    ("hangul letters", "\u1112\u1161\u11ab"),
    ("many words", {"repeat": "red heart ", "times": 9}),
    ("one word too long to be whole", {"repeat": "dog", "times": 8}),
    ("100 letters", {"repeat": "a", "times": 100}),
    ("101 letters", {"repeat": "a", "times": 101}),
    ("100 letters beyond 16 bits", {"repeat": "😀", "times": 100}),
    ("30 words", {"repeat": "dog ", "times": 30}),
    ("31 words", {"repeat": "dog ", "times": 31}),
    ("63 bytes", {"repeat": "x", "times": 63}),
    ("64 bytes", {"repeat": "x", "times": 64}),
    ("cut inside a letter", {"repeat": "é", "times": 40}),
    ("1 MB", {"repeat": "red heart 😀", "times": 74_900}),
    ("1 MB in one word", {"repeat": "a", "times": 2**20}),
    ("1 MB of control characters", {"repeat": "\x00\x01", "times": 2**19}),
]


def prompt_vectors() -> dict[str, Any]:
    """Every prompt, also as a rule {"repeat", "times"}, with its ids without the padding at their end."""
    tokenizers = Tokenizers.load(FOLDER)
    named = [*PROMPTS, *((f"random {i}", text) for i, text in enumerate(random_prompts()))]
    return {
        "tokenizer": TOKENIZER,
        "lengths": {"word": tokenizers.word_length, "byte": tokenizers.byte.length},
        "cases": [encoded(tokenizers, name, prompt) for name, prompt in named],
    }


def random_prompts() -> list[str]:
    """Strings of a fixed seed over characters that the rules treat differently, and words of the vocabulary."""
    chance = random.Random(15)
    words = [w for w in json.loads((FOLDER / "word.json").read_text("utf-8"))["model"]["vocab"] if w.isalpha()]
    return [
        "".join(
            chance.choice(POOL) if chance.random() < 0.7 else chance.choice(words) for _ in range(chance.randint(1, 24))
        )
        for _ in range(RANDOM_PROMPTS)
    ]


def spelled(prompt: str | dict) -> str:
    """The prompt a rule stands for."""
    return prompt if isinstance(prompt, str) else prompt["repeat"] * prompt["times"]


def encoded(tokenizers: Tokenizers, name: str, prompt: str | dict) -> dict[str, Any]:
    """A prompt with its ids and whether either tokenizer cut it."""
    text = spelled(prompt)
    ids = tokenizers.encode([text])
    lengths = len(tokenizers.word.encode(text).ids), len(tokenizers.byte.encode(text))
    cut = {"word_cut": lengths[0] > tokenizers.word_length, "byte_cut": lengths[1] > tokenizers.byte.length}
    assert any(cut.values()) == bool(ids.truncated[0])
    return {
        "name": name,
        "prompt": prompt,
        "word": trimmed(ids.word[0].tolist()),
        "byte": trimmed(ids.byte[0].tolist()),
        **cut,
    }


def trimmed(ids: list[int]) -> list[int]:
    """Ids without the zeros at their end."""
    while ids and ids[-1] == 0:
        ids = ids[:-1]
    return ids
