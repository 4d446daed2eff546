"""The command `edgegen ranges`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from edgegen.cli.options import Json, parse_resolution, split
from edgegen.show import table

if TYPE_CHECKING:
    from edgegen.foreign.ranges import Range

SHOWN = 12  # layers of a network


def ranges(
    checkpoint: Annotated[Path, typer.Option(metavar="DIR", help="A folder that diffusers or transformers saved.")],
    resolution: Annotated[str, typer.Option(metavar="WxH", help="Pixels.")] = "512x512",
    tokens: Annotated[int, typer.Option(metavar="N", help="Text tokens; the family's own if left out.")] = 0,
    components: Annotated[str, typer.Option(metavar="A,B", help="Networks of the folder; all if left out.")] = "",
    as_json: Json = False,
) -> None:
    """Runs the networks of a folder in fp32 and says which layers leave fp16; exit code 1 if one does."""
    from edgegen import show
    from edgegen.foreign.ranges import measure_ranges
    from edgegen.foreign.sources import Size, open_sources

    size = Size(*(parse_resolution(resolution) or (512, 512)), tokens)
    opened = open_sources(checkpoint, size, split(components))
    found = {source.name: measure_ranges(source) for source in opened.sources}
    if as_json:
        show.print_json({name: [r.to_dict() for r in rows] for name, rows in found.items()})
    else:
        for name, rows in found.items():
            show_ranges(show.console(), name, rows)
    raise typer.Exit(0 if all(r.fits for rows in found.values() for r in rows) else 1)


def show_ranges(to: Console, name: str, rows: Sequence[Range]) -> None:
    """The layers of the largest numbers."""
    outside = [row for row in rows if not row.fits]
    cells = [(r.layer, r.kind, f"{r.largest:.4g}", "" if r.fits else "leaves fp16") for r in [*outside, *rows][:SHOWN]]
    to.print(
        table(("layer", "kind", ">largest |value|", ""), cells, f"{name}: {len(outside)} of {len(rows)} leave fp16")
    )
