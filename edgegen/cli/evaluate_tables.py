"""How an evaluation looks to people."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from edgegen.show import Cell, marked, table


def show_report(to: Console, report: dict[str, Any]) -> None:
    """A table of all variants below what real pictures score, and the composition by task."""
    rows: list[tuple[Cell, ...]] = [
        (marked(name, "dim"), "", "", *cells(scores)) for name, scores in report["reference"].items()
    ]
    rows += [(f"width {row['width']:g}", row["steps"], f"{row['guidance']:g}", *cells(row)) for row in report["rows"]]
    partial = ", PARTIAL" if report["partial"] else ""
    to.print(
        table(
            (
                "",
                ">steps",
                ">guidance",
                ">val loss",
                ">Fréchet",
                ">kernel",
                ">precision",
                ">recall",
                ">R@1",
                ">R@5",
                ">composition",
                ">s/100",
            ),
            rows,
            f"{report['prompts']}, {report['count']} prompts{partial}",
        )
    )
    if any("composition" in row for row in report["rows"]):
        show_tasks(to, report)
    to.print(f"Commit {report['commit']}; noise seed {report['seeds']['noise']}.", soft_wrap=True)


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """The numbers of a row; what was not measured is left empty."""
    retrieval, composition = row.get("retrieval") or {}, row.get("composition") or {}
    return (
        number(row.get("validation_loss"), 4),
        number(row.get("frechet"), 2),
        number(row.get("kernel"), 4),
        share(row.get("precision")),
        share(row.get("recall")),
        share(retrieval.get("recall_at_1")),
        share(retrieval.get("recall_at_5")),
        share(composition.get("overall", {}).get("score")),
        number(row.get("seconds_per_100"), 1),
    )


def show_tasks(to: Console, report: dict[str, Any]) -> None:
    """Composition by task; the first rows are what the scorer finds in real pictures."""
    scored: list[tuple[Cell, Cell, dict]] = [
        (marked(name, "dim"), "", row) for name, row in report["reference"].items() if "composition" in row
    ]
    scored += [(f"width {row['width']:g}", row["steps"], row) for row in report["rows"] if "composition" in row]
    tasks = list(scored[0][2]["composition"])
    rows = [(name, steps, *(share(row["composition"][task]["score"]) for task in tasks)) for name, steps, row in scored]
    counts = scored[0][2]["composition"]
    to.print(table(("composition", ">steps", *(f">{task} ({counts[task]['count']})" for task in tasks)), rows))


def show_accuracy(to: Console, found: dict[str, Any]) -> None:
    """How often the scorer is right, a line a split and judgement."""
    tasks = list(dict.fromkeys(task for split in found["splits"].values() for task in split["right"]))
    rows = [
        (name, said, *(share((split[said].get(task) or {}).get("score")) for task in tasks))
        for name, split in found["splits"].items()
        for said in ("right", "wrong")
    ]
    to.print(
        table(
            ("scenes", "accepted", *(f">{task}" for task in tasks)),
            rows,
            f"{found['count']} real scenes of each split, seed {found['seed']}",
        )
    )
    for name, split in found["splits"].items():
        values = ", ".join(f"{what} {share(value)}" for what, value in split["things"].items() if what != "count")
        to.print(f"{name}: of {split['things']['count']} things {values}", soft_wrap=True)


def number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"
