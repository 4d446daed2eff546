"""Rows that an app measured on a phone, read from the file it wrote; nothing in them is believed unchecked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from edgegen.backends.registry import find_backend
from edgegen.bench import records
from edgegen.bench.parts import PARTS
from edgegen.bench.statistics import summarize
from edgegen.chain import NUMBERED
from edgegen.errors import InputError, brief
from edgegen.files import user_path
from edgegen.schema import Form, Name, OneOf, Range, Sha256, Size, from_values
from edgegen.strict_json import decoded, parse_json, read_bytes

REMEDY = "Take the file measurements.jsonl of an app as it is."
ROUNDING = 2e-4  # milliseconds: rows hold four decimals
Short = Annotated[str, Size(1, 256)]
Milliseconds = Annotated[float, Range(0, 1e9)]
Bytes = Annotated[int, Range(0, 2**50)]


@dataclass(frozen=True)
class MeasuredArtifact:
    """What was measured, by its content."""

    path: Short
    sha256: Sha256
    bytes: Bytes
    resident_bytes: Bytes


@dataclass(frozen=True)
class MeasuredOn:
    """What of the machine tables and reports show."""

    processor: Short
    cores: Annotated[int, Range(1, 4096)]
    system: Short


@dataclass(frozen=True)
class Latency:
    """The runs in order, and what was made of them."""

    runs: Annotated[tuple[float, ...], Size(1, 1_000_000)]
    n: int
    min: float
    p50: float
    p90: float
    p95: float
    max: float
    trimmed_mean: float
    cv: float
    cv_trimmed: float

    def __post_init__(self) -> None:
        told = asdict(self)
        for name, value in asdict(summarize(self.runs)).items():
            if not math.isclose(told[name], value, rel_tol=1e-3, abs_tol=ROUNDING if name[:2] != "cv" else 0.05):
                raise InputError(f"latency_ms.{name} is {told[name]:g}; its runs give {value:g}.")


@dataclass(frozen=True)
class AppRow:
    """The fields of a row that edgegen uses (row.py); others are let be."""

    source: Annotated[str, OneOf(("measured",))]
    device: Short
    date: Short
    machine: MeasuredOn
    versions: Annotated[dict[str, Short], Size(0, 64)]
    model: Name
    tier: Name
    width: Annotated[float, Range(0, 1, above=True)]
    bundle: Short
    component: Annotated[str, Form(rf"{'|'.join(PARTS)}|{NUMBERED.pattern}", f"{', '.join(PARTS)}, or a chunk")]
    backend: Name
    artifacts: Annotated[tuple[MeasuredArtifact, ...], Size(1, 64)]
    partial: bool
    noisy: bool
    settings: dict
    load_ms: Milliseconds
    first_ms: Milliseconds
    latency_ms: Latency

    def __post_init__(self) -> None:
        find_backend(self.backend)
        try:
            datetime.fromisoformat(self.date)
        except ValueError:
            raise InputError(f"date is {brief(self.date)}, no date of ISO 8601.") from None
        from_values(Threads, self.settings, "settings", strangers=True)


@dataclass(frozen=True)
class Threads:
    """What tables show of a row's settings."""

    threads: Annotated[int, Range(1, 4096)]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of an app's file, whole and checked; a last line that was cut off is passed over.

    Anything else that is no measured row is an InputError that names the line; so is a file without rows.
    """
    path = user_path(path)
    text = decoded(read_bytes(path, REMEDY), str(path), REMEDY)
    whole = text[: text.rfind("\n") + 1]
    rows = [row_of(line, f"{path}, line {i}") for i, line in enumerate(whole.splitlines(), 1) if line.strip()]
    if not rows:
        raise InputError(f"{path} has no row.", REMEDY)
    return rows


def row_of(line: str, where: str) -> dict[str, Any]:
    """One line's row; what an app may leave out is there as None."""
    values = parse_json(line, where, REMEDY)
    if not isinstance(values, dict):
        raise InputError(f"{where} is no object.", REMEDY)
    try:
        from_values(AppRow, values, strangers=True)
    except InputError as error:
        raise InputError(f"{where}: {error.message}", REMEDY) from None
    memory = values.get("memory")
    return {"commit": None, "form": None, **values, "memory": memory if isinstance(memory, dict) else None}


def keep(rows: Sequence[dict[str, Any]], record: Path) -> int:
    """Appends the rows that a record does not have yet; returns how many."""
    known = {identity(row) for row in records.read(record)}
    new = [row for row in rows if identity(row) not in known]
    for row in new:
        records.append(record, row)
    return len(new)


def identity(row: dict[str, Any]) -> tuple:
    """What no two measurements share."""
    runs = (row.get("latency_ms") or {}).get("runs") or ()
    return (row.get("device"), row.get("date"), row.get("component"), row.get("backend"), tuple(runs))
