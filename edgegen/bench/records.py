"""Append-only records: one JSON line a measurement, with what it takes to judge or repeat it."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import edgegen
from edgegen.bundle import tool_versions
from edgegen.errors import InputError
from edgegen.files import disk_errors

SOURCES = ("measured", "predicted")


def processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def usable_cores() -> int:
    """The cores this process may use: not all the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict:
    """What ran a measurement."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "memory_bytes": pages,
        "load_1min": load,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


WRITTEN_BY_STUDIES = [f":(exclude,glob)benchmarks/**/*.{ending}" for ending in ("jsonl", "png", "md")]


def commit() -> str | None:
    """The commit of the checkout edgegen runs from, with `+` when files differ from it; None when installed.

    What studies write about themselves (rows, plots, README.md below benchmarks/) may differ.
    """
    root = Path(edgegen.__file__).parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout

    if not (root / ".git").exists():
        return None
    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *WRITTEN_BY_STUDIES).strip()
        return git("rev-parse", "--short", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def environment() -> dict:
    """The fields every row shares: when, which commit, where, with which versions."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": tool_versions(),
    }


def append(path: Path, row: dict) -> dict:
    """Appends a row as one line, written at once and synced, after closing a line that was cut off; returns the row.

    A row says whether it is measured or predicted; one that does not is an error.
    """
    if row.get("source") not in SOURCES:
        raise InputError(f"a record's source is {row.get('source')!r}.", f"It is one of {', '.join(SOURCES)}.")
    line = json.dumps(row, allow_nan=False) + "\n"
    with disk_errors(path.absolute()):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # else a line that another process is writing looks cut off
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            os.write(handle, (("\n" if torn else "") + line).encode())
            os.fsync(handle)
        finally:
            os.close(handle)
    return row


def append_study(path: Path, settings: dict, results: dict, source: str = "measured") -> dict:
    """Appends the row of a study in benchmarks/: its settings and what came of them."""
    return append(path, {"source": source, **environment(), "settings": settings, "results": results})


def read(path: Path) -> list[dict]:
    """The rows of a file; a line that was cut off is passed over, a missing file has none."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return rows


def done(path: Path, settings: dict) -> dict | None:
    """The last row of a study with these settings from this commit and machine, so that a study can be resumed; none
    where the commit is not known, for any code may have written it.
    """
    here, where = commit(), processor()
    if here is None:
        return None
    for row in reversed(read(path)):
        if row.get("settings") == settings and row.get("commit") == here and row["machine"]["processor"] == where:
            return row
    return None
