"""Rows of a record as an app writes them, and rows that `edgegen bench --import` must refuse."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from edgegen.bench.row import rounded
from edgegen.bench.statistics import summarize

RUNS = [
    41.5,
    40.25,
    40.5,
    43.0,
    40.75,
    41.0,
    40.5,
    41.25,
    40.0,
    42.0,
    40.5,
    40.25,
    41.5,
    40.75,
    41.0,
    40.5,
    40.25,
    44.5,
    40.5,
    41.0,
]


def app_row() -> dict[str, Any]:
    """A whole row: edgegen's own fields (bench/row.py) and, in `machine` and `conditions`, what only a phone knows."""
    return {
        "source": "measured", "device": "pixel8", "compute_unit": "cpu", "date": "2026-01-31T12:00:00+00:00",
        "commit": None,
        "machine": {"processor": "Tensor G3", "cores": 9, "memory_bytes": 8_000_000_000, "load_1min": None,
                    "system": "Android 16", "model": "Google Pixel 8", "soc": "Google Tensor G3",
                    "build": "BP2A.250605"},
        "conditions": {"charging": False, "battery": 0.8, "power_save": False, "thermal_before": "none",
                       "thermal_after": "light"},
        "versions": {"app": "0.1.0", "onnxruntime": "1.28.0"},
        "model": "emoji", "tier": "low-android", "width": 0.375, "resolution": [128, 128], "bits": 16.0,
        "bundle": "emoji/low-android", "component": "transformer", "backend": "onnx", "form": "batched",
        "artifacts": [{"path": "onnx/transformer.onnx", "sha256": "ab" * 32, "bytes": 8002551,
                       "resident_bytes": 8002551}],
        "partial": False, "noisy": False,
        "settings": {"runs": 20, "seconds": 10.0, "warmup": 3, "threads": 1, "block": 1, "in_turn_with": []},
        "load_ms": 80.5, "first_ms": 50.25,
        "latency_ms": rounded(asdict(summarize(RUNS))) | {"runs": RUNS},
        "memory": {"base_bytes": 90_000_000, "loaded_bytes": 110_000_000, "peak_bytes": 120_000_000,
                   "peak_over_base_bytes": 30_000_000},
    }  # fmt: skip


def row_vectors() -> dict[str, Any]:
    """A row that is accepted, and changes to it ({field: value}; a dotted field lies deeper) that are refused."""
    return {"row": app_row(), "refused": [
        {"name": "claims to be predicted by an app", "change": {"source": "guessed"}},
        {"name": "no runs", "change": {"latency_ms.runs": []}},
        {"name": "a run that is no time", "change": {"latency_ms.runs": [*RUNS[:-1], -1.0]}},
        {"name": "a median that the runs do not have", "change": {"latency_ms.p50": 4.0}},
        {"name": "a device that is no text", "change": {"device": 8}},
        {"name": "no component of a bundle", "change": {"component": "vae"}},
        {"name": "no back end", "change": {"backend": "nnapi"}},
        {"name": "a machine without its processor", "change": {"machine": {}}},
        {"name": "no date", "change": {"date": "yesterday"}},
        {"name": "no list of artifacts", "change": {"artifacts": None}},
    ]}  # fmt: skip
