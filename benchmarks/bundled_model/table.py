"""Prints README.md's tables from the last report of each set of prompts in measurements.jsonl.

usage: python benchmarks/bundled_model/table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).with_name("measurements.jsonl")
REFERENCES = {"real": "other real scenes", "autoencoder": "the same scenes through the autoencoder"}


def last_reports() -> dict[str, dict[str, Any]]:
    """The last whole report of each set of prompts."""
    reports = [json.loads(line) for line in RECORDS.read_text(encoding="utf-8").splitlines()]
    return {report["prompts"]: report for report in reports if not report["partial"]}


def line(name: str, steps: str, row: dict[str, Any]) -> str:
    """One row: distances, retrieval, and composition by task."""
    tasks = [row["composition"].get(task, {}).get("score") for task in TASKS]
    cells = [name, steps, f"{row['frechet']:.1f}", f"{row['retrieval']['recall_at_5']:.0%}",
             *("" if score is None else f"{score:.0%}" for score in tasks)]
    return "| " + " | ".join(cells) + " |"


TASKS = ("overall", "single object", "two objects", "counting", "colours", "position", "colour attribution", "place")


def main() -> None:
    for name, report in last_reports().items():
        pool = report["rows"][0]["retrieval"]["pool"]
        print(f"\n`{name}`, {report['count']} scenes, R@5 of {pool} captions, commit {report['commit']}:\n")
        print("| drawn by | steps | Fréchet | R@5 | " + " | ".join(TASKS) + " |")
        print("|" + "---|" * (4 + len(TASKS)))
        for reference, row in report["reference"].items():
            print(line(REFERENCES[reference], "", row))
        for row in report["rows"]:
            print(line(f"width {row['width']:g}", str(row["steps"]), row))


if __name__ == "__main__":
    main()
