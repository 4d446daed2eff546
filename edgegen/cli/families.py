"""The command `edgegen families`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from edgegen.cli.options import Json
from edgegen.show import table

if TYPE_CHECKING:
    from edgegen.foreign.families.family import Family


def families(as_json: Json = False) -> None:
    """Lists the families of other projects' networks that are declared; any other class is tried all the same."""
    from edgegen import show
    from edgegen.foreign.families.registry import FAMILIES

    if as_json:
        show.print_json([{"title": f.title, "transformer": f.transformer, **f.to_dict()} for f in FAMILIES])
    else:
        show_families(show.console(), FAMILIES)


def show_families(to: Console, families: Sequence[Family]) -> None:
    """The families as a table."""
    rows = [(f.name, f.title, f.transformer, f.sampler, f.guidance) for f in families]
    to.print(table(("family", "", "transformer of diffusers", "sampler", "guidance"), rows, "Families"))
    to.print("A class that is not here is tried by the names of its inputs, and judged by the same verification.")
