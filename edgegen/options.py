"""Values of options in command lines."""

from __future__ import annotations

from typing import Any

from edgegen.errors import InputError


def numbers(name: str, text: str, default: tuple[Any, ...], kind: type = float) -> list[Any]:
    """'1,2.5' -> [1.0, 2.5]; nothing -> the default."""
    try:
        return [kind(part) for part in text.split(",")] if text else list(default)
    except ValueError:
        raise InputError(f"--{name} {text!r} is not a list of numbers.", f"Write --{name} 1,2.") from None
