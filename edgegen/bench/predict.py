"""Milliseconds of one run on a device that is not here, from what the network asks and what the device's units give.

For a unit of peak rate R (operations a second) and a memory of B bytes a second,

    seconds = 2 macs / (compute_fraction R)  +  weight_passes W / B  +  spill_passes S / B

with W the bytes of the weights as stored and S the bytes, in fp16, of attention scores whose matrix (the queries of a
head x its keys) is larger than the unit's own memory. A family of units, such as the Neural Engine, shares its
parameters; `python -m benchmarks.predictor.fit` fits them to published latencies and writes parameters.json with the
error of every point when left out. A Prediction cannot be shown without the word and its interval.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgegen.backends.backend import Backend
from edgegen.backends.registry import find_backend, list_backends
from edgegen.errors import InputError, unknown
from edgegen.graph.operations import Totals
from edgegen.target import UNITS, Device, Unit, core_widths

PARAMETERS = Path(__file__).with_name("parameters.json")
BITS = {"int8": 8, "float16": 16, "float32": 32}
SCORE_BYTES = 2  # scores are fp16 on every unit that has a spill
SMALL = 10  # times smaller than the smallest published network of a family


class CannotPredict(InputError):
    """A device or family lacks what a prediction takes; the message says what."""


@dataclass(frozen=True)
class Parameters:
    """What a family of units has in common, and how far off predictions with it were.

    compute_fraction: of the peak rate that products reach. weight_passes: times the weights cross the memory in a run.
    spill_passes: times a score matrix too large for the unit's own memory crosses it. on_chip_bytes: that memory.
    low, high: factors of the 80 % interval, from published / predicted of points left out of the fit. error: their
    median |predicted / published - 1|, None of a single point, which cannot be left out.
    """

    compute_fraction: float
    weight_passes: float
    spill_passes: float
    on_chip_bytes: float
    points: int
    least_macs: float  # of the smallest network among the points
    error: float | None
    low: float
    high: float

    @property
    def needs_bandwidth(self) -> bool:
        return self.weight_passes > 0 or self.spill_passes > 0


@dataclass(frozen=True)
class Prediction:
    """Milliseconds nobody measured, with their interval; as text always with the word and the interval."""

    milliseconds: float
    low: float
    high: float
    family: str
    family_error: float | None
    points: int
    note: str = ""  # why it may be worse than the interval says
    source: str = "predicted"

    @property
    def basis(self) -> str:
        """What it rests on: the family, how far off that was, and why it may be worse."""
        error = (
            "one published point, interval of other families"
            if self.family_error is None
            else f"median error {self.family_error:.0%} over {self.points} points left out"
        )
        return f"{self.family}, {error}{f'; {self.note}' if self.note else ''}"

    @property
    def interval(self) -> str:
        return f"{readable(self.low)} to {readable(self.high)}"

    def __str__(self) -> str:
        return f"predicted {readable(self.milliseconds)} ({self.interval}; {self.basis})"

    def __format__(self, spec: str) -> str:
        return str(self)  # no format gives the bare number

    def __repr__(self) -> str:
        return f"Prediction({self})"

    def __add__(self, other: Prediction) -> Prediction:
        """One after the other; errors are taken to go the same way."""
        worst = max((self, other), key=lambda p: (p.family_error is None, p.family_error or 0))
        return Prediction(
            self.milliseconds + other.milliseconds,
            self.low + other.low,
            self.high + other.high,
            worst.family,
            worst.family_error,
            worst.points,
            self.note or other.note,
        )

    def times(self, count: int) -> Prediction:
        """`count` runs."""
        return Prediction(
            count * self.milliseconds,
            count * self.low,
            count * self.high,
            self.family,
            self.family_error,
            self.points,
            self.note,
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "predicted": self.milliseconds,
            "low": self.low,
            "high": self.high,
            "family": self.family,
            "family_error": self.family_error,
            "points": self.points,
            "note": self.note,
            "source": self.source,
        }


def readable(milliseconds: float) -> str:
    """Three digits, in milliseconds or seconds."""
    return f"{milliseconds / 1e3:.3g} s" if milliseconds >= 999.5 else f"{milliseconds:.3g} ms"


@cache
def load_parameters(path: Path = PARAMETERS) -> dict[str, Parameters]:
    """The fitted parameters by family."""
    record = json.loads(path.read_text(encoding="utf-8"))
    return {name: Parameters(**values["parameters"]) for name, values in record["families"].items()}


def predict(totals: Totals, device: Device, backend: str, compute: str | None = None) -> Prediction:
    """One run of a network on a device by one of our back ends.

    `compute` is the arithmetic where it is not the back end's usual (Core ML float16, the others float32), such as
    "int8". CannotPredict says which rate of the device is not known, or that no published point covers the unit.
    """
    found = find_backend(backend)
    if not runs_on(found, device):
        others = " and ".join(other.name for other in list_backends() if runs_on(other, device))
        raise CannotPredict(f"{device.title} has no {found.title}.", f"Its back ends are {others}.")
    return predict_unit(totals, device, found.unit, compute or found.compute)


def runs_on(backend: Backend, device: Device) -> bool:
    """Whether a device's chip has what a back end needs."""
    return re.match(backend.chips, device.chip.value) is not None


def predict_unit(
    totals: Totals, device: Device, kind: str, compute: str, parameters: Mapping[str, Parameters] | None = None
) -> Prediction:
    """One run on the npu, gpu or cpu of a device."""
    unit, families = unit_of(device, kind), parameters if parameters is not None else load_parameters()
    if unit.family not in families:
        raise CannotPredict(
            f"the {kind} of {device.title} ({unit.family}) cannot be predicted: no published latency "
            "of that family is known.",
            f"Families with some: {', '.join(families)}.",
        )
    family = families[unit.family]
    milliseconds = sum(
        cost * weight
        for cost, weight in zip(
            costs(totals, device, unit, compute, family.on_chip_bytes, family.needs_bandwidth),
            weights(family),
            strict=True,
        )
    )
    return Prediction(
        milliseconds,
        milliseconds * family.low,
        milliseconds * family.high,
        unit.family,
        family.error,
        family.points,
        extrapolation(totals, family),
    )


def extrapolation(totals: Totals, family: Parameters) -> str:
    """What to say of a network far smaller than any published one, where the overhead of each operation counts."""
    if totals.macs * SMALL >= family.least_macs:
        return ""
    return "far below the published sizes, overheads not in it: a lower bound"


def weights(family: Parameters) -> tuple[float, float, float]:
    """What `costs` are multiplied by."""
    return 1 / family.compute_fraction, family.weight_passes, family.spill_passes


def costs(
    totals: Totals, device: Device, unit: Unit, compute: str, on_chip_bytes: float, with_memory: bool = True
) -> tuple[float, float, float]:
    """Milliseconds of the products at the peak rate, of the weights and of the spilled scores at the peak bandwidth."""
    products = 2e3 * totals.macs / (1e12 * tera_operations(device, unit, compute))
    if not with_memory:
        return products, 0.0, 0.0
    if device.bandwidth_gbs is None:
        raise CannotPredict(
            f"the memory bandwidth of {device.title} is not known, so its {unit.kind} cannot be predicted.",
            f"Add bandwidth_gbs, with its source, to targets/devices/{device.name}.toml.",
        )
    per_byte = 1e3 / (1e9 * device.bandwidth_gbs.value)
    spilled = totals.scores_above(on_chip_bytes / SCORE_BYTES) * SCORE_BYTES
    return products, totals.weight_bytes * per_byte, spilled * per_byte


def unit_of(device: Device, kind: str) -> Unit:
    """A unit of a device; CannotPredict when its rate is not known."""
    if kind not in UNITS:
        raise unknown("unit", kind, UNITS)
    if kind not in device.units:
        known = ", ".join(device.units) or "none"
        raise CannotPredict(
            f"the rate of the {kind} of {device.title} is not known, so it cannot be predicted.",
            f"Known rates: {known}. Add [units.{kind}], with its source, to targets/devices/{device.name}.toml.",
        )
    return device.units[kind]


def tera_operations(device: Device, unit: Unit, compute: str) -> float:
    """10^12 operations a second at an arithmetic; half the bits are taken to double the rate."""
    if unit.clusters:
        widths = core_widths()
        gigahertz_lanes = sum(c.count * c.ghz * widths[c.core] for c in unit.clusters)
        return 2e-3 * gigahertz_lanes * BITS["float32"] / BITS[compute]
    if unit.tops is None or unit.precision is None:
        raise CannotPredict(f"the rate of the {unit.kind} of {device.title} is not known.")
    return unit.tops * BITS[unit.precision] / BITS[compute]
