"""A whole picture: how often it runs each network, and how long that takes on a device, predicted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgegen.bench.parts import is_foreign
from edgegen.bench.predict import CannotPredict, Prediction, predict
from edgegen.bundle import Bundle
from edgegen.errors import EdgegenError
from edgegen.graph.operations import Program
from edgegen.target import Device

if TYPE_CHECKING:
    from edgegen.bench.recommend import Storage

Runs = Mapping[str, int]  # of each network


def runs_of_own(steps: int, guidance: float) -> Runs:
    """Of our own networks: text, every step (two passes where guidance is not 1) and decoder."""
    passes = 1 if guidance == 1 else 2
    return {"text_encoder": passes, "transformer": passes * steps, "decoder": 1}


def runs_of_picture(bundle: Bundle, backend: str) -> Runs:
    """Of a bundle's networks; CannotPredict where another project's pipeline cannot be asked."""
    if not is_foreign(bundle):
        return runs_of_own(len(bundle.manifest.sigmas) - 1, bundle.manifest.guidance)
    from edgegen.foreign.drawing import count_runs

    try:
        return count_runs(bundle, backend).runs
    except EdgegenError as error:
        raise CannotPredict(error.message, error.remedy) from None


def picture_time(
    programs: Mapping[str, Program], device: Device, backend: str, runs: Runs, storage: Mapping[str, Storage]
) -> Prediction:
    """The time of all runs of all networks, one after the other; loading is not in it."""
    total = None
    for name, count in runs.items():
        kept = storage.get(name)
        totals = programs[name].totals
        if kept is not None:
            totals = totals.compressed(kept.bits)
        part = predict(totals, device, backend, kept.compute if kept else None).times(count)
        total = part if total is None else total + part
    if total is None:
        raise CannotPredict("a picture cannot be predicted: it runs no network.")
    return total
