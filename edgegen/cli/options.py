"""Options that several commands share, and how their text becomes values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgegen.errors import InputError

if TYPE_CHECKING:
    from edgegen.model.checkpoint import Checkpoint

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
BackendList = Annotated[str, typer.Option("--backend", metavar="A,B", help="Such as coreml,onnx,executorch.")]
CheckpointFolder = Annotated[
    Path | None, typer.Option("--checkpoint", metavar="DIR", help="A checkpoint folder; default: the bundled one.")
]
BundleArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A bundle.", show_default=False)]
Preset = Annotated[str, typer.Option(help="Random weights in the shape of: paper, emoji.")]
DataFolder = Annotated[Path, typer.Option("--data", metavar="DIR", help="What `edgegen train fetch` fetched.")]
DATA = Path("data")


def split(names: str) -> list[str]:
    """'a, b, a' -> ['a', 'b']."""
    return list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))


def parse_resolution(text: str) -> tuple[int, int] | None:
    """'1024x768' -> (1024, 768); '' -> None."""
    if not text:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and 0 < int(part) < 2**20 for part in parts):
        raise InputError(f"resolution {text!r} is not WIDTHxHEIGHT.", "Write it as 1024x1024.")
    return int(parts[0]), int(parts[1])


def numbers(name: str, text: str, default: tuple[Any, ...], kind: type = float) -> list[Any]:
    """'1,2.5' -> [1.0, 2.5]; nothing -> the default."""
    try:
        return [kind(part) for part in text.split(",")] if text else list(default)
    except ValueError:
        raise InputError(f"--{name} {text!r} is not a list of numbers.", f"Write --{name} 1,2.") from None


def open_checkpoint(folder: Path | None, preset: str) -> Checkpoint:
    """The checkpoint asked for: a folder, a preset's random weights, or the bundled one."""
    from edgegen.api import load_checkpoint
    from edgegen.model.random_checkpoint import random_preset

    if folder and preset:
        raise InputError("--checkpoint and --preset exclude each other.", "Give one of them.")
    return random_preset(preset) if preset else load_checkpoint(folder)
