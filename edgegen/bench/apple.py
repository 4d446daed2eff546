"""Core ML on a connected iPhone or iPad, measured from a Mac through coremltools' remote device.

macOS with Xcode only, and not exercised by our tests, which run on Linux: every entry is guarded, and without such a
device `edgegen bench --device` predicts. coremltools builds and installs a small runner app on the device the first
time, which needs a development team (its `AppSigningCredentials`); memory on the device is not reported.
The Mac itself needs none of this: `--device host` runs Core ML there in a child process like any back end.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgegen.bench.child import inputs_of
from edgegen.bench.host import Candidate
from edgegen.bench.measure import Opened
from edgegen.bench.parts import is_picture
from edgegen.errors import EdgegenError
from edgegen.target import Device

TEAM = "EDGEGEN_DEVELOPMENT_TEAM"  # environment variable with the signing team, if Xcode has several


@dataclass(frozen=True)
class Planned:
    """Where Core ML means to run an operation, and its share of the estimated cost."""

    name: str
    kind: str
    preferred: str  # cpu, gpu or neural engine
    supported: tuple[str, ...]
    weight: float


def find_connected(device: Device) -> str | None:
    """The identifier of a connected device of this model; None on a machine that has none, or is no Mac."""
    if sys.platform != "darwin":
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "devices.json"
        command = ["xcrun", "devicectl", "list", "devices", "--json-output", str(path)]
        try:
            subprocess.run(command, capture_output=True, check=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            return None  # no Xcode: nothing can be measured from here
        return find_device(json.loads(path.read_text()), device.title)


def find_device(listed: dict[str, Any], title: str) -> str | None:
    """The identifier in devicectl's list of the connected device whose marketing name begins a title."""
    for entry in listed.get("result", {}).get("devices", []):
        name = entry.get("hardwareProperties", {}).get("marketingName", "")
        state = entry.get("connectionProperties", {}).get("tunnelState", "")
        if state == "connected" and name and (title == name or title.startswith(f"{name},")):
            return entry.get("identifier")
    return None


class RemoteRunner:
    """A Core ML component on a connected device; a Runner, see measure.py. Of one in chunks all are loaded, and a run
    takes the sum of their times.
    """

    def __init__(self, candidate: Candidate, identifier: str):
        if is_picture(candidate.bundle, candidate.component):
            raise EdgegenError("whole pictures are not drawn on a remote device.", "Measure its components.")
        self.candidate, self.identifier = candidate, identifier
        self.loop = asyncio.new_event_loop()
        self.benchmarks: list[tuple[Any, dict[str, Any]]] = []  # of each program, and its inputs

    async def start(self) -> float:
        """Installs the runner app and loads the model; milliseconds of the load."""
        import coremltools as ct
        from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker
        from coremltools.models.ml_program.experimental.remote_device import AppSigningCredentials
        from coremltools.models.ml_program.experimental.remote_device import Device as Remote

        remote = next((d for d in Remote.get_devices() if d.identifier == self.identifier), None)
        if remote is None:
            raise EdgegenError(f"device {self.identifier} is no longer connected.", "Connect and unlock it.")
        credentials = AppSigningCredentials(development_team=os.environ.get(TEAM, ""))
        prepared = await remote.prepare_for_model_debugging(credentials=credentials)
        bundle, c = self.candidate.bundle, self.candidate
        for program in bundle.programs(c.component, c.backend):
            path, units = str(bundle.path(program)), ct.ComputeUnit.CPU_AND_NE
            model = ct.models.MLModel(path, skip_model_load=True, compute_units=units)
            self.benchmarks.append((MLModelBenchmarker(model, device=prepared), inputs_of(bundle, [program])))
        return sum([(await benchmark.benchmark_load(1)).samples[0] for benchmark, _ in self.benchmarks])

    def open(self) -> Opened:
        return Opened(self.loop.run_until_complete(self.start()), 0, 0)

    def run(self, count: int) -> tuple[list[float], int]:
        made = [
            self.loop.run_until_complete(benchmark.benchmark_predict(inputs, iterations=count)).samples
            for benchmark, inputs in self.benchmarks
        ]
        return [sum(times) for times in zip(*made, strict=True)], 0

    def close(self) -> None:
        self.benchmarks = []
        self.loop.close()


def compute_plan(package: Path) -> list[Planned]:
    """Core ML's own plan for an .mlpackage on this Mac: the unit it prefers for every operation."""
    if sys.platform != "darwin":
        raise EdgegenError(f"Core ML makes no compute plan on {sys.platform}.", "Run this on a Mac.")
    import coremltools as ct
    from coremltools.models.compute_plan import MLComputePlan

    plan = MLComputePlan.load_from_path(ct.models.utils.compile_model(str(package)), ct.ComputeUnit.ALL)
    program = plan.model_structure.program
    if program is None:
        raise EdgegenError(f"{package} is not an ML program.", "Export it again.")
    made = []
    for operation in program.functions["main"].block.operations:
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
        if usage is not None:
            name = operation.outputs[0].name if operation.outputs else operation.operator_name
            made.append(
                Planned(
                    name,
                    operation.operator_name,
                    unit(usage.preferred_compute_device),
                    tuple(map(unit, usage.supported_compute_devices)),
                    cost.weight if cost else 0.0,
                )
            )
    return made


def unit(device: Any) -> str:
    """MLNeuralEngineComputeDevice -> 'neural engine'."""
    names = {"MLCPUComputeDevice": "cpu", "MLGPUComputeDevice": "gpu", "MLNeuralEngineComputeDevice": "neural engine"}
    return names.get(type(device).__name__, type(device).__name__)
