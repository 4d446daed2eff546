"""A row of a record: one component on one back end of one device, measured or predicted, and always saying which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edgegen.backends.registry import find_backend
from edgegen.bench.host import Candidate
from edgegen.bench.measure import Measurement, Settings
from edgegen.bench.parts import is_foreign, is_picture
from edgegen.bench.predict_bundle import PredictedPart, host_memory
from edgegen.bundle import Artifact, Bundle

DIGITS = 4


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Floats to four decimals."""
    return {key: round(value, DIGITS) if isinstance(value, float) else value for key, value in values.items()}


def identity(bundle: Bundle, backend: str, component: str) -> dict:
    """Which artifact a row is about; the picture is about all of a back end's."""
    m = bundle.manifest
    of_all = is_picture(bundle, component)
    artifacts = [a for a in m.components if a.backend == backend and (of_all or a.network == component)]
    return {
        "model": m.model,
        "tier": m.tier,
        "width": m.width,
        "resolution": list(m.resolution),
        "bits": m.bits,
        "bundle": str(bundle.folder),
        "component": component,
        "backend": backend,
        "form": artifacts[0].form if artifacts else None,
        "artifacts": [described(a) for a in artifacts],
    }


def described(artifact: Artifact) -> dict:
    return {
        "path": artifact.path,
        "sha256": artifact.sha256,
        "bytes": artifact.bytes,
        "resident_bytes": artifact.resident_bytes,
    }


def measured_row(
    candidate: Candidate, measurement: Measurement, settings: Settings, others: Sequence[str], environment: dict
) -> dict:
    """The record of a measurement with its single runs in order; `others` are what ran in turn with it."""
    assert measurement.opened is not None and measurement.first_ms is not None
    opened, runs = measurement.opened, measurement.runs
    steps = {"steps": steps_of(candidate)} if is_picture(candidate.bundle, candidate.component) else {}
    return {
        "source": "measured",
        "device": "host",
        "compute_unit": find_backend(candidate.backend).compute_unit,
        **environment,
        **identity(candidate.bundle, candidate.backend, candidate.component),
        "partial": measurement.partial,
        "noisy": measurement.is_noisy,
        "settings": asdict(settings) | {"block": measurement.block, "in_turn_with": list(others)} | steps,
        "load_ms": round(opened.load_ms, DIGITS),
        "first_ms": round(measurement.first_ms, DIGITS),
        "latency_ms": rounded(asdict(measurement.summary)) | {"runs": [round(run, DIGITS) for run in runs]},
        "memory": memory_of(candidate, measurement),
    }


def steps_of(candidate: Candidate) -> int:
    """The steps of a picture; of another project's pipeline those that it takes by itself."""
    if is_foreign(candidate.bundle):
        from edgegen.foreign.drawing import count_runs

        return count_runs(candidate.bundle, candidate.backend).steps
    return len(candidate.bundle.manifest.sigmas) - 1


def memory_of(candidate: Candidate, measurement: Measurement) -> dict | None:
    """The process's memory before loading, at the peak of loading and at its highest, beside what was predicted; None
    where it is not told.
    """
    opened, peak = measurement.opened, measurement.peak_bytes
    if opened is None or not peak:
        return None
    told = {
        "base_bytes": opened.base_bytes,
        "loaded_bytes": opened.loaded_bytes,
        "peak_bytes": peak,
        "peak_over_base_bytes": peak - opened.base_bytes,
    }
    if measurement.partial:  # an interruption is not the time to read the artifact again
        return told
    predicted = host_memory(candidate.bundle, candidate.backend, candidate.component)
    return told if predicted is None else told | {"predicted": predicted.to_dict()}


def predicted_row(bundle: Bundle, part: PredictedPart, device: str, environment: dict) -> dict:
    """The record of a prediction: milliseconds {predicted, low, high, ...} or why there are none, and peak memory."""
    return {
        "source": "predicted",
        "device": device,
        **environment,
        **identity(bundle, part.backend, part.component),
        "latency_ms": None if part.time is None else rounded(part.time.to_dict()),
        "cannot_predict": part.cannot,
        "memory": None if part.memory is None else part.memory.to_dict(),
    }
