"""How measurements look on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from edgegen.bench.compare import Comparison
from edgegen.bench.profile import TimedOperation, shares
from edgegen.show import Cell, marked, table

MOST = 24  # lines of a profile's table


def milliseconds(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def show_measured(to: Console, rows: Sequence[dict]) -> None:
    """One line a measured row; the bundle is named where there are several."""
    several = len({row["bundle"] for row in rows}) > 1
    cells = []
    for row in rows:
        latency, memory = row["latency_ms"], row["memory"] or {}
        name = Text(row["component"]) + (marked(" (partial)", "yellow") if row["partial"] else "")
        spread: Cell = f"{latency['cv_trimmed']:.2f}"
        if row["noisy"]:
            spread = marked(f"{spread} noisy", "yellow")
        times = (latency[key] for key in ("min", "p50", "p90", "p95", "max", "trimmed_mean"))
        cells.append(
            (
                name,
                row["backend"],
                *([f"{row['model']}/{row['tier']}"] if several else []),
                row["source"],
                *map(milliseconds, (row["load_ms"], row["first_ms"], *times)),
                latency["n"],
                spread,
                megabytes(memory.get("peak_over_base_bytes")),
                predicted_megabytes(memory.get("predicted")),
            )
        )
    to.print(
        table(
            (
                "component",
                "back end",
                *(["bundle"] if several else []),
                "source",
                ">load",
                ">first",
                ">min",
                ">p50",
                ">p90",
                ">p95",
                ">max",
                ">mean*",
                ">runs",
                ">CV*",
                ">MB",
                ">MB, predicted",
            ),
            cells,
        )
    )
    threads = rows[0]["settings"]["threads"] if rows else 1
    to.print(
        f"Milliseconds, {threads} thread{'s' if threads > 1 else ''}; * without the fastest and slowest tenth. "
        "MB: the peak of the process over what it had before loading, beside it predicted with its interval."
    )


def megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.1f}"


def predicted_megabytes(memory: dict | None) -> str:
    """A predicted peak with its interval."""
    return (
        "-"
        if memory is None
        else " ".join(
            (megabytes(memory["predicted_bytes"]), "in", megabytes(memory["low"]), "to", megabytes(memory["high"]))
        )
    )


def show_comparisons(to: Console, comparisons: Sequence[Comparison]) -> None:
    """The ratio of medians with its interval."""
    cells = [
        (
            c.component,
            c.a,
            c.b,
            f"{c.ratio.value:.3f}",
            f"{c.ratio.low:.3f} to {c.ratio.high:.3f}",
            c.verdict,
        )
        for c in comparisons
    ]
    to.print(
        table(
            ("component", "A", "B", ">time A / B", f">{comparisons[0].ratio.confidence:.0%} interval", "verdict"), cells
        )
    )


def show_predicted(to: Console, rows: Sequence[dict]) -> None:
    """One line a predicted row, with its interval."""
    cells = []
    for row in rows:
        latency = row["latency_ms"]
        told = ("-", "-", "-")
        if latency:
            value, low, high = (milliseconds(latency[key]) for key in ("predicted", "low", "high"))
            told = (value, f"{low} to {high}", family_error(latency))
        cells.append((row["component"], row["backend"], row["source"], *told, predicted_megabytes(row["memory"])))
    to.print(
        table(("component", "back end", "source", ">ms", ">interval", "family, its error", ">MB, predicted"), cells)
    )
    for why in dict.fromkeys(row["cannot_predict"] for row in rows if row["cannot_predict"]):
        to.print(f"- cannot be predicted: {escape(why)}", soft_wrap=True)


def family_error(latency: dict) -> str:
    """How far predictions of the unit's family were off when a point was left out of the fit."""
    if latency["family_error"] is None:
        return f"{latency['family']}: one point"
    return f"{latency['family']}: {latency['family_error']:.0%} of {latency['points']} points"


def show_profile(to: Console, title: str, operations: Sequence[TimedOperation]) -> None:
    """Where the time goes: by module, then by kind of operation."""
    total = sum(operation.ms for operation in operations)
    to.print(f"[bold]{escape(title)}[/]: {len(operations)} operations, {total:.2f} ms by the runtime's own clock")
    for by in ("module", "kind"):
        found = shares(operations, by)
        cells = [
            (s.name, s.operations, f"{s.ms:.3f}", f"{s.share:.1%}", "█" * round(40 * s.share)) for s in found[:MOST]
        ]
        to.print(table((by, ">operations", ">ms", ">share", ""), cells))
        if len(found) > MOST:
            to.print(f"[dim]... and {len(found) - MOST} more; --json lists them.[/]")
