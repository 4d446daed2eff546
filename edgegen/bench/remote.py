"""A device that is not this machine: measured when it is connected to this Mac, predicted otherwise."""

from __future__ import annotations

from edgegen.backends.registry import find_backend
from edgegen.bench import records
from edgegen.bench.apple import RemoteRunner, find_connected
from edgegen.bench.host import Candidate
from edgegen.bench.measure import Measurement, measure_, require_quiet
from edgegen.bench.parts import check_components, is_picture, parts_of
from edgegen.bench.predict_bundle import predict_bundle
from edgegen.bench.row import measured_row, predicted_row
from edgegen.bench.session import BenchRequest, open_bundles
from edgegen.bundle import Bundle
from edgegen.callbacks import Advance
from edgegen.errors import InputError
from edgegen.target import Device, load_device


def find_target(name: str) -> tuple[Device, str | None]:
    """The device of a name, and the identifier under which it is connected; an unknown name suggests the closest."""
    device = load_device(name)
    return device, find_connected(device)


def pick_components(bundle: Bundle, request: BenchRequest) -> list[tuple[str, str]]:
    """The (back end, component) of a bundle that were asked for; what it lacks is an error."""
    for backend in request.backends:
        find_backend(backend)
        if backend not in bundle.backends:
            raise InputError(f"{bundle.root} has no {backend}.", f"It has: {', '.join(bundle.backends)}.")
    check_components(bundle, request.components)
    return [
        (backend, part)
        for backend in request.backends or bundle.backends
        for part in parts_of(bundle, backend)
        if not request.components or part in request.components
    ]


def measure_remote(
    device: Device, identifier: str, request: BenchRequest, advance: Advance = lambda done, of: None
) -> list[dict]:
    """Rows of Core ML components measured on a connected device, one after the other."""
    rows, environment = [], records.environment()
    for bundle in open_bundles(request.bundles):
        for backend, component in pick_components(bundle, request):
            if backend != "coreml" or is_picture(bundle, component):
                continue
            candidate, measurement = Candidate(bundle, backend, component), Measurement(f"{component} on {backend}")
            measure_([measurement], [RemoteRunner(candidate, identifier)], request.settings, advance)
            if not request.force:
                require_quiet([measurement])
            row = measured_row(candidate, measurement, request.settings, (), environment) | {"device": device.name}
            rows.append(records.append(request.record, row))
    if not rows:
        raise InputError("nothing here can be measured on a remote device.", "It takes components for coreml.")
    return rows


def predict_rows(device: Device, request: BenchRequest) -> list[dict]:
    """Rows of predictions for a device that is not here; what cannot be predicted says why."""
    environment = records.environment()
    rows = []
    for bundle in open_bundles(request.bundles):
        runs = pick_components(bundle, request)
        rows += [
            predicted_row(bundle, part, device.name, environment)
            for part in predict_bundle(bundle, device)
            if (part.backend, part.component) in runs
        ]
    if not rows:
        raise InputError("nothing that was asked for can be predicted.", "Leave --backend and --component out.")
    return rows
