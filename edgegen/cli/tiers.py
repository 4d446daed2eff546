"""The command `edgegen tiers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console

from edgegen.cli.options import Json
from edgegen.show import table

if TYPE_CHECKING:
    from edgegen.target import BackendTarget, Tier


def tiers(as_json: Json = False) -> None:
    """Lists the tiers: width, back ends, forms, floors."""
    from edgegen import show
    from edgegen.target import list_tiers

    found = list_tiers()
    show.print_json([asdict(tier) for tier in found]) if as_json else show_tiers(show.results(), found)


def show_tiers(to: Console, tiers: Sequence[Tier]) -> None:
    """Tiers, one line a back end."""
    cells = [
        (
            t.name,
            f"{t.width:g}",
            told(b),
            b.deployment_target or "",
            b.attention,
            b.precision,
            f"{b.floor_db:g} dB",
            t.summary,
        )
        for t in tiers
        for b in t.backends.values()
    ]
    to.print(table(("tier", ">width", "back end", "from", "attention", "precision", ">floor", "for"), cells))


def told(target: BackendTarget) -> str:
    """A back end's name, and whether it must be asked for."""
    return target.name if target.default else f"{target.name} (on request)"
