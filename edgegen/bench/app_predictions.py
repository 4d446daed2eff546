"""What an app is told of phones: how long a picture is predicted to take, by device and transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgegen.bench.memory import network_program
from edgegen.bench.picture import picture_time, runs_of_own
from edgegen.bench.predict import Prediction
from edgegen.bench.predict_bundle import try_predict
from edgegen.bundle import COMPONENTS, Bundle
from edgegen.target import Device, list_devices
from edgegen.verify import is_whole


def app_predictions(bundles: Sequence[Bundle], backends: Sequence[str]) -> dict[str, Any]:
    """{"source": "predicted", "devices": [{name, title, chip, picture_ms: {"<transformer's sha256>/<back end>": ms}}]}.

    Devices for which nothing can be predicted are left out.
    """
    programs = {
        (i, b): programs_of(bundle, b) for i, bundle in enumerate(bundles) for b in backends if is_whole(bundle, b)
    }
    devices = []
    for device in list_devices():
        times = {key_of(bundles[i], b): picture_ms(bundles[i], b, found, device) for (i, b), found in programs.items()}
        known = {key: ms for key, ms in times.items() if ms is not None}
        if known:
            devices.append({"name": device.name, "title": device.title, "chip": device.chip.value, "picture_ms": known})
    return {"source": "predicted", "devices": devices}


def programs_of(bundle: Bundle, backend: str) -> dict:
    """The operations of each component of a back end."""
    return {name: network_program(bundle, name, backend) for name in COMPONENTS}


def key_of(bundle: Bundle, backend: str) -> str:
    return f"{bundle.programs('transformer', backend)[0].sha256}/{backend}"


def picture_ms(bundle: Bundle, backend: str, programs: dict, device: Device) -> float | None:
    """Milliseconds of a picture, or None where no published latency covers the device's unit."""
    runs = runs_of_own(len(bundle.manifest.sigmas) - 1, bundle.manifest.guidance)
    time: Prediction | None
    time, _ = try_predict(lambda: picture_time(programs, device, backend, runs, {}))
    return None if time is None else round(time.milliseconds, 4)
