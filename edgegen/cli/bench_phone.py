"""`edgegen bench --adb` and `--import`: what an app measured on a phone, beside what was predicted for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from edgegen.errors import InputError

if TYPE_CHECKING:
    from edgegen.bench.session import BenchRequest

HOST = "host"


def by_app(
    console: Console,
    device: str,
    request: BenchRequest,
    file: Path | None,
    by_adb: bool,
    report: Path | None,
    as_json: bool,
) -> dict[str, Any]:
    """Rows of a file or of the connected phone, kept in the record and shown, then what is predicted for the device."""
    from edgegen import show
    from edgegen.bench import report as page
    from edgegen.bench.imported import keep, read_rows
    from edgegen.cli import bench_tables as tables

    check(device, request, file, by_adb)
    rows = read_rows(file) if file else measured(console, device, request)
    predicted = predictions(device, request) if by_adb or request.bundles else []
    new = keep(rows, request.record)
    for machine in dict.fromkeys(named(row) for row in rows):
        console.print(f"{escape(machine)}, source: measured by the app", soft_wrap=True)
    if not as_json:
        tables.show_measured(show.results(), rows)
        if predicted:
            tables.show_predicted(show.results(), predicted)
        console.print(f"Recorded: {escape(str(request.record))}, {new} new of {len(rows)} rows", soft_wrap=True)
    if report:
        page.write(report, [*rows, *predicted])
    return {"source": "measured", "device": rows[0]["device"], "rows": rows, "predicted": predicted}


def check(device: str, request: BenchRequest, file: Path | None, by_adb: bool) -> None:
    """Refuses options that exclude each other, or lack another."""
    if file and by_adb:
        raise InputError("--import and --adb exclude each other.", "Give one of them.")
    if by_adb and device == HOST:
        raise InputError("--adb needs the phone's name.", "Add --device pixel8 (edgegen devices).")
    if file and request.bundles and device == HOST:
        raise InputError("--import with --bundle predicts for a device, which is not named.", "Add --device pixel8.")
    if request.compare or request.components or request.backends:
        raise InputError("the app measures all of a bundle.", "Leave --compare, --component and --backend out.")


def measured(console: Console, device: str, request: BenchRequest) -> Sequence[dict[str, Any]]:
    """What the app on the connected phone measures now."""
    from edgegen import show
    from edgegen.bench.adb import measure_phone
    from edgegen.bench.session import open_bundles
    from edgegen.target import load_device

    target = load_device(device)
    with show.Progress(console) as progress:
        return measure_phone(target, open_bundles(request.bundles), progress)


def predictions(device: str, request: BenchRequest) -> list[dict[str, Any]]:
    """Rows of what is predicted for the same bundles, on the back ends that the app has."""
    from edgegen import api
    from edgegen.apps.android import ANDROID

    rows = api.predict_latency(request.bundles or None, device).rows
    return [row for row in rows if row["backend"] in ANDROID.backends]


def named(row: dict[str, Any]) -> str:
    """Which machine a row was measured on."""
    machine = row["machine"]
    model = machine.get("model") or row["device"]
    return f"{model} ({machine['processor']}, {machine['cores']} cores, {machine['system']})"
