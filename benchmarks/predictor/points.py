"""The published latencies as points of the fit: device profile, network, milliseconds of one run."""

from __future__ import annotations

import csv
from pathlib import Path

from benchmarks.predictor.models import load
from edgegen.bench.fit import Point
from edgegen.bench.predict import CannotPredict
from edgegen.target import Device, load_device

FOLDER = Path(__file__).parent
SETS = {"Apple": ("apple.csv", "snapgenpp.csv"), "Android": ("android.csv",)}


def profile(name: str) -> Device:
    """A device that ships, or one of machines/: Macs and reference boards that published tables name."""
    machine = FOLDER / "machines" / f"{name}.toml"
    return load_device(str(machine) if machine.exists() else name)


def read_points(file: str) -> list[Point]:
    """The rows of one table whose network is known."""
    totals, points = load(), []
    with (FOLDER / "published" / file).open(encoding="utf-8", newline="") as table:
        for row in csv.DictReader(table):
            if not row["model"]:
                continue
            counted = totals[row["model"]].batch(int(row["batch"])).compressed(float(row["weight_bits"]))
            label = f"{row['model']} on {row['device']}"
            points.append(
                Point(
                    label,
                    profile(row["profile"]),
                    row["unit"],
                    row["model"],
                    row["compute"],
                    counted,
                    float(row["milliseconds"]),
                    row["fitted"] == "yes",
                )
            )
    return points


def predictable(points: list[Point]) -> tuple[list[Point], list[tuple[Point, str]]]:
    """The points whose device has the rates it takes, and the others with what is missing."""
    able, unable = [], []
    for point in points:
        try:
            able.append(point) if point.family else None
        except CannotPredict as error:
            unable.append((point, error.message))
    return able, unable
