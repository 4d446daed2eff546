"""Whole exports of the bundled model to Core AI at every width, as a user runs them, verified by Apple's runtime."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PRECISIONS = {"float16": 45.0, "float32": 100.0}  # and the floor each must reach, in dB
BITS = 4.3
TIER = """
name = "{name}"
summary = "Core AI at width {width}"
width = {width}
picture_floor_db = 35.0

[backends.coreai]
attention = "split"
query_chunk = 512
precision = "{precision}"
deployment_target = "iOS27"
floor_db = {floor}
"""


def rows(widths: Sequence[float], folder: Path) -> Iterator[tuple[dict, dict]]:
    """Settings and results of an export of each width in each precision, and of one with palettes at the narrowest."""
    for width in widths:
        for precision in PRECISIONS:
            yield row(width, precision, folder)
    yield row(min(widths), "float16", folder, BITS)


def row(width: float, precision: str, folder: Path, bits: float | None = None) -> tuple[dict, dict]:
    """Settings and results of one export."""
    name = f"coreai-{width}-{precision}-{bits or 'plain'}"
    tier = folder / f"{name}.toml"
    tier.write_text(TIER.format(name=name, width=width, precision=precision, floor=PRECISIONS[precision]))
    options = [] if bits is None else ["--bits", str(bits), "--tune-steps", "0"]
    command = ["export", "--tier", str(tier), "--backend", "coreai", *options, "--out", str(folder / name)]
    done = subprocess.run([sys.executable, "-m", "edgegen", *command, "--json"], stdout=subprocess.PIPE, text=True)
    settings = {"part": "exports", "width": width, "precision": precision, "bits": bits}
    return settings, results_of(json.loads(done.stdout)) | {"exit_code": done.returncode}


def results_of(document: dict[str, Any]) -> dict[str, Any]:
    """PSNR and size of every component; an export that failed says why."""
    if "verify" not in document:
        return {"error": document}
    sizes = {part["component"]: part["bytes"] for part in document["components"]}
    return {
        "evaluator": document["verify"][0]["evaluator"],
        "psnr_db": {found["component"]: round(found["psnr_db"], 1) for found in document["verify"]},
        "floor_db": {found["component"]: found["floor_db"] for found in document["verify"]},
        "passed": all(found["passed"] for found in document["verify"]),
        "bytes": sizes,
        "seconds": document["seconds"],
        "peak_bytes": document["peak_bytes"],
    }
