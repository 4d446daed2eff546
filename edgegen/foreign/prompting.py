"""What a pipeline makes of a prompt before its tokenizers see it: watched, and told as text before and after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Told = dict[str, Any]


@dataclass(frozen=True)
class Given:
    """A text that a tokenizer was given, and how it was asked to cut and fill it."""

    tokenizer: str
    text: str
    settings: Told


def watch_texts_(pipeline: Any) -> list[Given]:
    """Makes every tokenizer of a pipeline note in the list what it is given."""
    given: list[Given] = []
    for name, part in pipeline.components.items():
        if is_tokenizer(part):
            watch_(part, name, given)
    return given


def is_tokenizer(part: Any) -> bool:
    return callable(part) and hasattr(part, "model_max_length")


def watch_(tokenizer: Any, name: str, given: list[Given]) -> None:
    """Gives a tokenizer a class of its own, which notes its texts."""
    kind = type(tokenizer)

    def call(self: Any, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        for one in [text] if isinstance(text, str) else text or ():
            given.append(Given(name, one, settings_of(self, kwargs)) if isinstance(one, str) else Given(name, "", {}))
        return kind.__call__(self, text, *args, **kwargs)

    tokenizer.__class__ = type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})


def settings_of(tokenizer: Any, asked: Mapping[str, Any]) -> Told:
    """How a text is cut and filled, in a manifest's words."""
    padding = asked.get("padding", False)
    limit = asked.get("max_length") or (tokenizer.model_max_length if asked.get("truncation") else 0)
    return {
        "padding": "max_length" if padding == "max_length" else "longest" if padding else "none",
        "padding_side": tokenizer.padding_side,
        "multiple_of": int(asked.get("pad_to_multiple_of") or 0),
        "max_length": int(limit) if 0 < limit < 2**24 else 0,
        "add_special_tokens": bool(asked.get("add_special_tokens", True)),
    }


def told_prompting(given: Sequence[Given], prompts: Sequence[str]) -> Told:
    """Of what a tokenizer was given: the text around every prompt, and how it is cut; empty where prompts differ."""
    for lowercase in (False, True):
        shown = [prompt.lower() if lowercase else prompt for prompt in prompts]
        longest = max(shown, key=len)
        for one in given:
            before, found, after = one.text.partition(longest)
            texts = {other.text for other in given}
            if found and all(before + prompt + after in texts for prompt in shown):
                return {"before": before, "after": after, "lowercase": lowercase, **one.settings}
    return {}


def told_tokenizers(pipeline: Any, given: Sequence[Given], prompts: Sequence[str]) -> dict[str, Told]:
    """Every tokenizer of a pipeline: its class, and what it makes of prompts."""
    told = {}
    for name, part in pipeline.components.items():
        if is_tokenizer(part):
            own = [one for one in given if one.tokenizer == name]
            told[name] = {"class": type(part).__name__, **told_prompting(own, prompts)}
    return told
