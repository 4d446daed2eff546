"""Predictions for every artifact of a bundle, and for the whole picture, in the order of the bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from edgegen.backends.registry import read_graph
from edgegen.bench.memory import Memory, artifact_memory, pipeline_memory, predict_memory
from edgegen.bench.predict import CannotPredict, Prediction, predict
from edgegen.bench.recommend import picture_time
from edgegen.bundle import COMPONENTS, Bundle
from edgegen.target import Device

PICTURE = "picture"
DRAWING_BYTES = 8_000_000  # of tokenizers, conditions and latents in Python, measured here


@dataclass(frozen=True)
class PredictedPart:
    """A component, or the picture, on a back end: its time, or why there is none, and its peak memory."""

    component: str
    backend: str
    time: Prediction | None
    memory: Memory
    cannot: str = ""


def predict_bundle(bundle: Bundle, device: Device) -> list[PredictedPart]:
    """Every component of every back end, and the picture where all components are there."""
    parts: list[PredictedPart] = []
    for backend in bundle.backends:
        artifacts = {a.name: a for a in bundle.manifest.components if a.backend == backend}
        programs = {name: read_graph(backend, bundle.path(a)) for name, a in artifacts.items()}
        memory = {name: predict_memory(programs[name], backend, a.resident_bytes) for name, a in artifacts.items()}
        for name, program in programs.items():
            time, cannot = try_predict(partial(predict, program.totals, device, backend))
            parts.append(PredictedPart(name, backend, time, memory[name], cannot))
        if set(COMPONENTS) <= set(programs):
            m = bundle.manifest
            time, cannot = try_predict(
                partial(picture_time, programs, device, backend, len(m.sigmas) - 1, m.guidance, {})
            )
            parts.append(PredictedPart(PICTURE, backend, time, pipeline_memory(memory), cannot))
    return parts


def host_memory(bundle: Bundle, backend: str, component: str) -> Memory:
    """What measuring a component here should take; the picture there keeps every artifact open, and tokenizers."""
    parts = {
        a.name: artifact_memory(bundle, a)
        for a in bundle.manifest.components
        if a.backend == backend and component in (a.name, PICTURE)
    }
    memory = pipeline_memory(parts, free_text_encoder=False)
    return replace(memory, activations=memory.activations + DRAWING_BYTES) if component == PICTURE else memory


def try_predict(make: Callable[[], Prediction]) -> tuple[Prediction | None, str]:
    """A prediction, or why there is none."""
    try:
        return make(), ""
    except CannotPredict as error:
        return None, f"{error.message} {error.remedy}".strip()
