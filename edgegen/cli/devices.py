"""The command `edgegen devices`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from edgegen.cli.options import Json
from edgegen.show import table

if TYPE_CHECKING:
    from edgegen.target import Device, Figure


def devices(
    name: Annotated[str, typer.Argument(help="One device; all if left out.")] = "", as_json: Json = False
) -> None:
    """Lists the devices and how many of their figures were checked; --json has the source of every one."""
    from edgegen import show
    from edgegen.target import list_devices, load_device

    found = [load_device(name)] if name else list_devices()
    show.print_json([asdict(device) for device in found]) if as_json else show_devices(show.results(), found)


def show_devices(to: Console, devices: Sequence[Device]) -> None:
    """Devices, and of how many figures the source was opened; `--json` gives the source of every figure."""

    def known(figure: Figure | None, unit: str) -> str:
        return f"{figure.value:g} {unit}" if figure else "-"

    cells = [
        (
            d.name,
            d.title,
            d.chip.value,
            d.year.value,
            known(d.memory_gb, "GB"),
            known(d.app_memory_gb, "GB"),
            known(d.bandwidth_gbs, "GB/s"),
            ", ".join(d.units) or "-",
            f"{sum(f.checked for f in d.figures.values())} of {len(d.figures)}",
            d.tier,
        )
        for d in devices
    ]
    to.print(
        table(
            (
                "device",
                "name",
                "chip",
                ">year",
                ">memory",
                ">for one app",
                ">bandwidth",
                "rates known",
                ">checked",
                "tier",
            ),
            cells,
        )
    )
    if len(devices) == 1:
        for name, figure in devices[0].figures.items():
            if not figure.checked:
                to.print(f"{name}: {escape(figure.source)}", soft_wrap=True)
