"""Prompts from text files."""

from __future__ import annotations

from pathlib import Path

from edgegen.errors import InputError


def read_prompts(path: Path) -> list[str]:
    """Prompts from a text file, one a line; '#' begins a comment."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}.", "Give a text file with one prompt a line.") from None
    prompts = [line.split("#")[0].strip() for line in lines]
    if not any(prompts):
        raise InputError(f"{path} has no prompts.", "Write one a line.")
    return [prompt for prompt in prompts if prompt]
