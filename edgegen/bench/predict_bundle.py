"""Predictions for every artifact of a bundle, and for the whole picture, in the order of the bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from edgegen.bench.memory import Memory, network_memory, network_program, pipeline_memory
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
        programs = {name: network_program(bundle, name, b) for name, b in bundle.networks if b == backend}
        memory = {name: network_memory(bundle, name, backend, program) for name, program in programs.items()}
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
        name: network_memory(bundle, name, backend)
        for name, b in bundle.networks
        if b == backend and component in (name, PICTURE)
    }
    memory = pipeline_memory(parts, free_text_encoder=False)
    return replace(memory, activations=memory.activations + DRAWING_BYTES) if component == PICTURE else memory


def try_predict(make: Callable[[], Prediction]) -> tuple[Prediction | None, str]:
    """A prediction, or why there is none."""
    try:
        return make(), ""
    except CannotPredict as error:
        return None, f"{error.message} {error.remedy}".strip()
