"""Prompts from text files."""

from __future__ import annotations

from pathlib import Path

from edgegen.errors import InputError
from edgegen.strict_json import read_text


def read_prompts(path: Path) -> list[str]:
    """The prompts of a text file, one a line; empty lines and lines that begin with # are passed over.

    A # inside a line belongs to the prompt: "a player with the #10". Raises InputError where there is no prompt.
    """
    lines = (line.strip() for line in read_text(path, "Give a text file with one prompt a line.").splitlines())
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise InputError(f"{path} has no prompts.", "Write one a line.")
    return prompts
