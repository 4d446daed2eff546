"""The command `edgegen verify`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

from edgegen.cli.options import BackendList, BundleArgument, CheckpointFolder, Json, split
from edgegen.show import marked, table

if TYPE_CHECKING:
    from edgegen.verify import Row


def verify(
    bundle: BundleArgument, backend: BackendList = "", checkpoint: CheckpointFolder = None, as_json: Json = False
) -> None:
    """Checks a bundle's files, then runs every artifact against PyTorch; exit code 1 if one is below its floor."""
    from edgegen import api, show

    console = show.console()
    with show.Progress(console) as progress:
        found = api.verify_bundle(bundle, split(backend), checkpoint, progress)
    if as_json:
        show.print_json(found.to_dict())
    else:
        show_rows(show.results(), found.rows)
        found.require()
    raise typer.Exit(0 if found.passed else 1)


def show_rows(to: Console, rows: Sequence[Row]) -> None:
    """Verification rows."""
    cells = [
        (
            row.component,
            row.backend,
            row.evaluator,
            row.inputs,
            *decibels(row),
            f"{row.max_abs:.2g}",
            "yes" if row.passed else marked("NO", "red"),
        )
        for row in rows
    ]
    to.print(
        table(
            ("component", "back end", "evaluator", ">inputs", ">PSNR", ">floor", ">max |difference|", "passed"), cells
        )
    )


def decibels(row: Row) -> tuple[Text, str]:
    """PSNR and floor; equality has no decibels."""
    value = "equal" if row.psnr_db >= 200 else f"{row.psnr_db:.1f} dB" if row.finite else "not finite"
    return marked(value, "green" if row.passed else "red"), f"{row.floor_db:g} dB"
