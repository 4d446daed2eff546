"""word.json, a tokenizer of the tokenizers library, looked at before that library reads it.

Its format can hold regular expressions that run for ever, fillings of a billion tokens and ids beyond any embedding.
Taken is what needs none of it: a model of words, steps without patterns of their own, a fixed length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from tokenizers import Tokenizer

from edgegen.errors import InputError, brief
from edgegen.quiet import quietly
from edgegen.strict_json import parse_json

Result = TypeVar("Result")
LONGEST = 4096  # tokens
LONGEST_WORD = 1000  # characters; the time of WordPiece grows with their square
MODELS = ("WordPiece", "BPE", "WordLevel")
NORMALIZERS = ("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Sequence", "Strip", "StripAccents")
PRE_TOKENIZERS = ("BertPreTokenizer", "ByteLevel", "Digits", "Punctuation", "Sequence", "Whitespace", "WhitespaceSplit")
POST_PROCESSORS = ("BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing")
STEPS = {"normalizer": NORMALIZERS, "pre_tokenizer": PRE_TOKENIZERS, "post_processor": POST_PROCESSORS}
ONCE = ("ByteLevel", "TemplateProcessing")  # steps that can lengthen a text by a factor
MOST_STEPS = 32
MOST_PARTS = 16  # of a template
REMEDY = "Copy it again from where it was made."
PROBES = ("", "a word of Ünicode 12,3 💚", "[UNK]")  # what a file cannot read of these it cannot read at all


def read_word_tokenizer(data: bytes, where: str = "word.json") -> tuple[Tokenizer, int]:
    """The tokenizer of a file's bytes, that neither fills nor cuts, and the length which its file fills to.

    What cannot be used is an InputError.
    """
    values = parse_json(data, where, REMEDY)
    try:
        check_tokenizer(values)
        return quietly(lambda: open_tokenizer(values, data.decode()))  # a panic prints what it was
    except InputError as error:
        raise InputError(f"{where}: {error.message}", REMEDY) from None


def open_tokenizer(values: Any, text: str) -> tuple[Tokenizer, int]:
    """A tokenizer that has shown what it makes of a few texts, and its length."""
    tokenizer = guarded(lambda: Tokenizer.from_str(text))
    check_names(values)
    length = tokenizer.padding["length"]
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for probe in PROBES:
        encode(tokenizer, [probe])
    return tokenizer, length


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """The ids of each text; InputError for a tokenizer that cannot read one."""
    return [encoding.ids for encoding in guarded(lambda: tokenizer.encode_batch(texts))]


def guarded(work: Callable[[], Result]) -> Result:
    """What work gives; whatever the library raises is an InputError: bare Exception, or a panic, which is none."""
    try:
        return work()
    except BaseException as error:
        if type(error) is Exception or type(error).__name__ == "PanicException":  # a class that cannot be imported
            raise InputError(f"it is no tokenizer that can be used: {brief(str(error), 120)}.", REMEDY) from None
        raise


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
        check_steps(step, list(step_types(values.get(step))), known)
    check_padding(values.get("padding"))
    for identity in token_ids(values):
        if type(identity) is not int or not 0 <= identity < 2**31:
            raise InputError(f"{brief(identity)} is no id of a token.")


def check_steps(step: str, kinds: list[Any], known: tuple[str, ...]) -> None:
    """Refuses kinds of steps that are not known, too many, and twice what makes a text many times as long."""
    for kind in kinds:
        if kind not in known:
            raise InputError(f"{step} {brief(kind)} is not one of {', '.join(known)}.")
        if kind in ONCE and kinds.count(kind) > 1:
            raise InputError(f"{step} has {kind} {kinds.count(kind)} times; once is allowed.")
    if len(kinds) > MOST_STEPS:
        raise InputError(f"{step} has {len(kinds)} steps; {MOST_STEPS} are allowed.")


def check_names(values: Any) -> None:
    """Refuses a token that a model or a template speaks of and does not have: the library would fail in use."""
    model = values["model"]
    unknown = model.get("unk_token", "[UNK]")
    if unknown not in model["vocab"] and (unknown is not None or model["type"] != "BPE"):
        raise InputError(f"model.unk_token {brief(unknown)} is not in its vocab.")
    for step in processors(values.get("post_processor")):
        for part in (*step.get("single", ()), *step.get("pair", ())):
            name = part.get("SpecialToken", {}).get("id")
            if name is not None and name not in step["special_tokens"]:
                raise InputError(f"{brief(name)} of a template is not one of its special_tokens.")


def processors(step: Any) -> Iterator[dict[str, Any]]:
    """A post-processor and those inside it."""
    if not isinstance(step, dict):
        return
    yield step
    for inner in entries(step.get("processors"), list):
        yield from processors(inner)


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
    parts = entries(step.get("single"), list)
    if len(parts) > MOST_PARTS:
        raise InputError(f"a template has {len(parts)} parts; {MOST_PARTS} are allowed.")


def check_padding(padding: Any) -> None:
    """Refuses filling that is not with 0 to a fixed length."""
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
    for processor in processors(values.get("post_processor")):
        for special in entries(processor.get("special_tokens"), dict):
            yield from entries(special.get("ids"), list) if isinstance(special, dict) else (special,)
        for pair in (processor.get("sep"), processor.get("cls")):
            yield from entries(pair, list)[1:]


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
