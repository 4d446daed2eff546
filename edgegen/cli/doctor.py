"""The command `edgegen doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from edgegen.cli.options import Json
from edgegen.show import marked, table

if TYPE_CHECKING:
    from edgegen.backends.health import Ability
    from edgegen.doctor import Health


def doctor(as_json: Json = False) -> None:
    """Tells which back end can convert, verify and run here, with versions."""
    from edgegen import doctor as work
    from edgegen import show

    health = work.examine()
    show.print_json(asdict(health)) if as_json else show_health(show.results(), health)


def show_health(to: Console, health: Health) -> None:
    """What works here."""

    def cell(ability: Ability) -> Text:
        return marked("yes" if ability.works else "no", "green" if ability.works else "red") + f" {ability.note}"

    to.print(
        table(
            ("back end", "convert", "verify", "run"),
            [(b.backend, cell(b.convert), cell(b.verify), cell(b.run)) for b in health.backends],
        )
    )
    to.print(escape(", ".join(f"{name} {version}" for name, version in health.versions.items())))
    memory = f"{health.memory_bytes / 2**30:.0f} GiB of memory" if health.memory_bytes else "unknown memory"
    to.print(
        f"Python {health.python}, {health.system}, {health.cores} cores, {memory}, "
        f"{health.free_disk_bytes / 2**30:.0f} GiB of disk free"
    )
    bundled = "found" if health.bundled_checkpoint else "[red]missing[/]"
    to.print(f"bundled checkpoint: {bundled}; targets: {escape(health.targets)}", soft_wrap=True)
