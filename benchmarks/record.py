"""One row of a study's measurements.jsonl: what was measured, on which commit, machine and versions."""

from __future__ import annotations

import json
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import edgegen

PACKAGES = ("torch", "coremltools", "onnxruntime", "executorch")


def processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
             ] if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """The checkout's commit, with `+` when files differ from it."""
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def append(path: Path, settings: dict, results: dict) -> dict:
    """Appends a measured row and returns it."""
    versions = {"edgegen": edgegen.__version__, **{name: version(name) for name in PACKAGES}}
    row = {
        "source": "measured", "date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit(),
        "machine": {"processor": processor(), "system": platform.platform(terse=True)},
        "versions": versions, "settings": settings, "results": results,
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return row
