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
        rows = [
            {"title": f.title, "transformer": f.transformer, "verified": f.verified, **f.to_dict()} for f in FAMILIES
        ]
        show.print_json(rows)
    else:
        show_families(show.console(), FAMILIES)


def sampler_of(family: Family) -> str:
    """What draws with networks of a family, of those that embed their guidance too."""
    return " or ".join(dict.fromkeys((family.sampler, (family.embedding or {}).get("sampler", family.sampler))))


def guidance_of(family: Family) -> str:
    """How networks of a family are guided."""
    return family.guidance if family.embedding is None else f"{family.guidance} or embedded"


def show_families(to: Console, families: Sequence[Family]) -> None:
    """The families as a table."""
    rows = [(f.name, f.title, f.transformer, sampler_of(f), guidance_of(f), ", ".join(f.verified)) for f in families]
    heads = ("family", "", "transformer of diffusers", "sampler", "guidance", "verified on")
    to.print(table(heads, rows, "Families"))
    to.print(
        "Verified with random weights: networks against diffusers' modules, pictures of tiny pipelines on ONNX and"
    )
    to.print("Core ML; benchmarks/foreign_networks has the numbers. Trained weights are verified when you export them.")
    to.print("A class that is not here is tried by the names of its inputs, and judged by the same verification.")
