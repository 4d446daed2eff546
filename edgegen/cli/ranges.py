"""The command `edgegen ranges`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from edgegen.cli.options import Json, parse_resolution, split
from edgegen.show import table

if TYPE_CHECKING:
    from edgegen.foreign.ranges import Range, Scaling

SHOWN = 12  # layers of a network


def ranges(
    checkpoint: Annotated[Path, typer.Option(metavar="DIR", help="A folder that diffusers or transformers saved.")],
    resolution: Annotated[str, typer.Option(metavar="WxH", help="Pixels.")] = "512x512",
    tokens: Annotated[int, typer.Option(metavar="N", help="Text tokens; the family's own if left out.")] = 0,
    components: Annotated[str, typer.Option(metavar="A,B", help="Networks of the folder; all if left out.")] = "",
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="TEXT", help="Draw this with the whole pipeline; may be given several times."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Runs the networks of a folder in fp32 and says which layers leave fp16, and whether an export to Core ML scales
    them by powers of two or refuses them: then the exit code is 1.
    """
    from edgegen import show
    from edgegen.foreign.ranges import Scaling, measure_ranges, prompted_ranges, scaling_for
    from edgegen.foreign.sources import Size, open_sources

    pixels = parse_resolution(resolution) or (512, 512)
    sources = {s.name: s for s in open_sources(checkpoint, Size(*pixels, tokens), split(components)).sources}
    if prompts:
        found = {
            name: rows for name, rows in prompted_ranges(checkpoint, prompts, pixels, tokens).items() if name in sources
        }
    else:
        found = {name: measure_ranges(source) for name, source in sources.items()}
    outside = [name for name, rows in found.items() if not all(r.fits for r in rows)]
    scalings = {name: scaling_for(sources[name]) for name in outside}
    if as_json:
        told = {name: [r.to_dict() for r in rows] for name, rows in found.items()}
        show.print_json({n: {"layers": rows, **scalings.get(n, Scaling({})).to_dict()} for n, rows in told.items()})
    else:
        for name, rows in found.items():
            show_ranges(show.results(), name, rows, scalings.get(name))
    raise typer.Exit(1 if any(scaling.refused for scaling in scalings.values()) else 0)


def show_ranges(to: Console, name: str, rows: Sequence[Range], scaling: Scaling | None) -> None:
    """The layers of the largest numbers, and what is done about them."""
    outside = [row for row in rows if not row.fits]
    cells = [
        (r.layer, r.kind, f"{r.taken:.4g}", f"{r.largest:.4g}", "" if r.fits else "leaves fp16")
        for r in (outside or rows)[:SHOWN]
    ]
    heads = ("layer", "kind", ">largest |value| taken", ">given", "")
    to.print(table(heads, cells, f"{name}: {len(outside)} of {len(rows)} leave fp16"))
    if scaling is None:
        return
    if scaling.refused:
        to.print(f"Core ML refuses it: {escape(scaling.refused)}", soft_wrap=True)
    elif scaling.exponents:
        most = max(scaling.exponents.values())
        to.print(f"Core ML computes after {len(scaling.exponents)} layers with numbers divided by up to 2^{most}.")
    else:
        to.print("On the inputs that an export is judged by it does not leave fp16: nothing is scaled.")
