"""Predictions for every artifact of a bundle, and for the whole picture, in the order of the bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from edgegen.bench.memory import Memory, network_memory, network_program, pipeline_memory
from edgegen.bench.parts import PICTURE, is_foreign, is_picture, parts_of
from edgegen.bench.picture import picture_time, runs_of_picture
from edgegen.bench.predict import CannotPredict, Prediction, predict
from edgegen.bundle import Bundle
from edgegen.graph.operations import Program
from edgegen.target import Device

DRAWING_BYTES = 8_000_000  # of tokenizers, conditions and latents in Python, measured here


@dataclass(frozen=True)
class PredictedPart:
    """A component, or the picture, on a back end: its time, or why there is none, and its peak memory, if known."""

    component: str
    backend: str
    time: Prediction | None
    memory: Memory | None
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
        if any(is_picture(bundle, part) for part in parts_of(bundle, backend)):
            parts.append(predict_picture(bundle, device, backend, programs, memory))
    return parts


def predict_picture(
    bundle: Bundle, device: Device, backend: str, programs: Mapping[str, Program], memory: Mapping[str, Memory]
) -> PredictedPart:
    """The picture on a back end; without a network that it needs neither its time nor its memory is told."""
    try:
        runs = runs_of_picture(bundle, backend)
    except CannotPredict as error:
        return PredictedPart(PICTURE, backend, None, None, f"{error.message} {error.remedy}".strip())
    time, cannot = try_predict(partial(picture_time, programs, device, backend, runs, {}))
    return PredictedPart(PICTURE, backend, time, pipeline_memory(memory), cannot)


def host_memory(bundle: Bundle, backend: str, component: str) -> Memory | None:
    """What measuring a component here should take; the picture there keeps every artifact open, and tokenizers.

    None for the picture of another project's pipeline, whose own code takes more than its networks.
    """
    of_all = is_picture(bundle, component)
    if of_all and is_foreign(bundle):
        return None
    parts = {
        name: network_memory(bundle, name, backend)
        for name, b in bundle.networks
        if b == backend and (of_all or name == component)
    }
    memory = pipeline_memory(parts, free_text_encoder=False)
    return replace(memory, activations=memory.activations + DRAWING_BYTES) if of_all else memory


def try_predict(make: Callable[[], Prediction]) -> tuple[Prediction | None, str]:
    """A prediction, or why there is none."""
    try:
        return make(), ""
    except CannotPredict as error:
        return None, f"{error.message} {error.remedy}".strip()
