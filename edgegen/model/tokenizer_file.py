"""word.json, a tokenizer of the tokenizers library, looked at before that library reads it.

Its format can hold regular expressions that run for ever, fillings of a billion tokens and ids beyond any embedding.
Taken is what needs none of it: a model of words, steps without patterns of their own, a fixed length.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

from edgegen.errors import InputError, brief
from edgegen.strict_json import parse_json

LONGEST = 4096  # tokens
LONGEST_WORD = 1000  # characters; the time of WordPiece grows with their square
MODELS = ("WordPiece", "BPE", "WordLevel")
NORMALIZERS = ("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Sequence", "Strip", "StripAccents")
PRE_TOKENIZERS = ("BertPreTokenizer", "ByteLevel", "Digits", "Punctuation", "Sequence", "Whitespace", "WhitespaceSplit")
POST_PROCESSORS = ("BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing")
STEPS = {"normalizer": NORMALIZERS, "pre_tokenizer": PRE_TOKENIZERS, "post_processor": POST_PROCESSORS}
REMEDY = "Copy it again from where it was made."


def read_word_tokenizer(data: bytes, where: str = "word.json") -> Tokenizer:
    """The tokenizer of a file's bytes; its own padding gives its length. What cannot be used is an InputError."""
    values = parse_json(data, where, REMEDY)
    try:
        check_tokenizer(values)
        return Tokenizer.from_str(data.decode())
    except InputError as error:
        raise InputError(f"{where}: {error.message}", REMEDY) from None
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{where} cannot be read: {error}.", REMEDY) from None


def check_tokenizer(values: Any) -> None:
    """Refuses what the format allows and a text encoder cannot use."""
    if not isinstance(values, dict):
        raise InputError(f"it must hold an object, found {brief(values)}.")
    model = values.get("model")
    if not isinstance(model, dict) or model.get("type") not in MODELS:
        found = model.get("type") if isinstance(model, dict) else model
        raise InputError(f"model is {brief(found)}, not one of {', '.join(MODELS)}.")
    longest_word = model.get("max_input_chars_per_word", LONGEST_WORD)
    if type(longest_word) is not int or not 1 <= longest_word <= LONGEST_WORD:
        raise InputError(f"model.max_input_chars_per_word is {brief(longest_word)}; 1 to {LONGEST_WORD} is allowed.")
    for step, known in STEPS.items():
        for kind in step_types(values.get(step)):
            if kind not in known:
                raise InputError(f"{step} {brief(kind)} is not one of {', '.join(known)}.")
    check_padding(values.get("padding"))
    for identity in token_ids(values):
        if type(identity) is not int or not 0 <= identity < 2**31:
            raise InputError(f"{brief(identity)} is no id of a token.")


def step_types(step: Any) -> Iterator[Any]:
    """The types of a step and of those inside it."""
    if step is None:
        return
    if not isinstance(step, dict):
        raise InputError(f"a step must be an object, found {brief(step)}.")
    yield step.get("type")
    for key in ("normalizers", "pretokenizers", "processors"):
        inner = step.get(key, [])
        for part in inner if isinstance(inner, list) else [inner]:
            yield from step_types(part)
    if len(step.get("single") or ()) > 16:
        raise InputError(f"a template has {len(step['single'])} parts; 16 are allowed.")


def check_padding(padding: Any) -> None:
    """Refuses filling that is not with 0 to a fixed length."""
    if padding is None:
        return
    strategy = padding.get("strategy") if isinstance(padding, dict) else None
    length = strategy.get("Fixed") if isinstance(strategy, dict) else None
    if type(length) is not int or not 1 <= length <= LONGEST:
        raise InputError(f"padding.strategy is {brief(strategy)}; it must be Fixed, of 1 to {LONGEST} tokens.")
    if padding.get("pad_id") != 0 or isinstance(padding.get("pad_id"), bool):
        raise InputError(f"padding.pad_id is {brief(padding.get('pad_id'))}; it must be 0.")


def token_ids(values: Any) -> Iterator[Any]:
    """Every id that the tokenizer can give."""
    vocabulary = values["model"].get("vocab")
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise InputError("model.vocab must be an object with tokens.")
    yield from vocabulary.values()
    for token in entries(values.get("added_tokens"), list):
        yield token.get("id") if isinstance(token, dict) else token
    processor = values.get("post_processor") or {}
    for special in entries(processor.get("special_tokens"), dict):
        yield from special.get("ids", ()) if isinstance(special, dict) else (special,)


def entries(found: Any, kind: type) -> list[Any]:
    """The entries of a list or the values of an object that may be missing."""
    if found is None:
        return []
    if not isinstance(found, kind):
        raise InputError(f"{brief(found)} must be {'a list' if kind is list else 'an object'}.")
    return list(found.values()) if isinstance(found, dict) else list(found)


def largest_id(data: bytes, where: str = "word.json") -> int:
    """The largest id that a file's tokenizer can give."""
    return max(token_ids(parse_json(data, where, REMEDY)))
