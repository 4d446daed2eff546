"""Whether a pipeline's tokenizers cut what they were given: pipelines do so in silence, or in a log."""

from __future__ import annotations

from typing import Any

from edgegen.foreign.prompting import is_tokenizer


def watch_tokenizers_(pipeline: Any) -> list[str]:
    """Makes every tokenizer of a pipeline note in the list what it cuts off."""
    cut: list[str] = []
    for name, part in pipeline.components.items():
        if is_tokenizer(part):
            watch_(part, name, cut)
    return cut


def watch_(tokenizer: Any, name: str, cut: list[str]) -> None:
    """Gives a tokenizer a class of its own, which counts tokens once more without a limit where it was given one."""
    kind = type(tokenizer)

    def call(self: Any, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("truncation"):
            special = kwargs.get("add_special_tokens", True)
            limit = kwargs.get("max_length") or self.model_max_length
            whole = kind.__call__(self, text, add_special_tokens=special, verbose=False)["input_ids"]
            rows = whole if whole and isinstance(whole[0], list) else [whole]
            if any(len(row) > limit for row in rows):
                cut.append(name)
        return kind.__call__(self, text, *args, **kwargs)

    tokenizer.__class__ = type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
