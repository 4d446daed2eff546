"""The command `edgegen generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from edgegen.cli.options import CheckpointFolder, Json

if TYPE_CHECKING:
    from edgegen.generate import Drawn


def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.", show_default=False)],
    bundle: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: the newest below ./out.")] = None,
    backend: Annotated[str | None, typer.Option(help="onnx, executorch, coreml or torch (the original).")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same noise, on every back end.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Default: the bundle's.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Default: the bundle's; 1 turns it off.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: named after the prompt.")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Also save what each step aims at.")] = False,
    checkpoint: CheckpointFolder = None,
    as_json: Json = False,
) -> None:
    """Draws a picture with a bundle's artifacts."""
    from edgegen import api, show

    console = show.console()
    with show.Progress(console) as progress:
        drawn = api.generate_image(prompt, bundle, backend, seed, steps, guidance, out, preview, checkpoint, progress)
    if drawn.truncated:
        console.print("[yellow]warning:[/] the prompt is longer than the text encoders take; its end was left out.")
    for line in drawn.warnings:
        console.print(f"[yellow]warning:[/] {escape(line)}", soft_wrap=True)
    show.print_json(drawn.to_dict()) if as_json else show_drawn(show.results(), drawn)


def show_drawn(to: Console, drawn: Drawn) -> None:
    """Where a picture is and how it was made."""
    if drawn.random_weights:
        to.print("[yellow]Random weights: the picture means nothing.[/]")
    to.print(
        f"{escape(drawn.picture)}: {drawn.resolution[0]}x{drawn.resolution[1]}, {drawn.steps} steps, guidance "
        f"{drawn.guidance:g}, seed {drawn.seed}, {drawn.backend}, {drawn.seconds:.1f} s",
        soft_wrap=True,
    )
