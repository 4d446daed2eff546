"""Prints README.md's tables from the reports in measurements.jsonl, the last one of each way to draw.

usage: python benchmarks/bundled_model/table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).with_name("measurements.jsonl")
REFERENCES = {"real": "other real scenes", "autoencoder": "the same scenes through the autoencoder"}


def by_prompts() -> dict[tuple[str, int], list[dict[str, Any]]]:
    """The whole reports of each set of prompts and number of scenes, oldest first."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for text in RECORDS.read_text(encoding="utf-8").splitlines():
        report = json.loads(text)
        if not report["partial"]:
            found.setdefault((report["prompts"], report["count"]), []).append(report)
    return found


def last_rows(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last row of each way to draw, by width, then steps."""
    rows = {way(row): row for report in reports for row in report["rows"]}
    return [rows[key] for key in sorted(rows)]


def way(row: dict[str, Any]) -> tuple[float, int, bool, float, float]:
    """What tells one way to draw from another: width, steps, distilled, shift, guidance."""
    distilled = row["guidance"] == 1 and not row["name"].endswith(", base")  # students draw without guidance
    return row["width"], row["steps"], distilled, row["shift"], row["guidance"]


def drawn_by(row: dict[str, Any]) -> str:
    """'width 0.5, K-DMD' or 'width 0.5, Euler, shift 1, guidance 3.5'."""
    width, _, distilled, shift, guidance = way(row)
    return f"width {width:g}, " + ("K-DMD" if distilled else f"Euler, shift {shift:g}, guidance {guidance:g}")


def behind(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The distance against that of the most steps at the same width, which has passed through the network most."""
    best = max((other for other in rows if other["width"] == row["width"]), key=lambda other: other["steps"])
    return "" if best is row else f"{row['frechet'] / best['frechet'] - 1:+.1%}"


def line(name: str, steps: str, row: dict[str, Any], against: str = "") -> str:
    """One row: distances, retrieval, and composition by task."""
    tasks = [row["composition"].get(task, {}).get("score") for task in TASKS]
    cells = [
        name,
        steps,
        f"{row['frechet']:.1f}",
        against,
        f"{row['retrieval']['recall_at_5']:.0%}",
        *("" if score is None else f"{score:.0%}" for score in tasks),
    ]
    return "| " + " | ".join(cells) + " |"


TASKS = ("overall", "single object", "two objects", "counting", "colours", "position", "colour attribution", "place")


def main() -> None:
    for (name, count), reports in by_prompts().items():
        last = reports[-1]
        pool = last["rows"][0]["retrieval"]["pool"]
        commits = ", ".join(sorted({report["commit"] for report in reports}))
        print(f"\n`{name}`, {count} scenes, R@5 of {pool} captions, commit {commits}:\n")
        print("| drawn by | steps | Fréchet | against 28 steps | R@5 | " + " | ".join(TASKS) + " |")
        print("|" + "---|" * (5 + len(TASKS)))
        for reference, row in last["reference"].items():
            print(line(REFERENCES[reference], "", row))
        rows = last_rows(reports)
        for row in rows:
            print(line(drawn_by(row), str(row["steps"]), row, behind(row, rows)))


if __name__ == "__main__":
    main()
