"""The bits of every weight: measured and allocated under a budget, or read from a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from edgegen.callbacks import Advance, Report
from edgegen.errors import InputError, unknown
from edgegen.files import replace_json
from edgegen.meter import give_back
from edgegen.model.checkpoint import Checkpoint
from edgegen.model.dit import DiT
from edgegen.quantize.allocate import Choice, Plan, allocate, average, reachable, read_bits
from edgegen.quantize.calibration import calibrate, spread
from edgegen.quantize.gradients import Sums, gradient_errors
from edgegen.quantize.layers import quantizable
from edgegen.quantize.palette import BITS, check_bits, palette_bytes
from edgegen.quantize.sensitivity import MEASURES, Sensitivity, measure, velocity_errors
from edgegen.quantize.stages import AGAIN, reading_stage
from edgegen.quantize.trajectories import Conditions, Sampling, draw_points, mixed_seed
from edgegen.strict_json import read_json

CURVE_POINTS = 17  # budgets at which the best plan's error is told
VELOCITY_ROWS = 32  # points on which a layer's effect on the velocity is measured: a forward pass a layer and candidate
GRADIENT_POINTS = 8  # a backward pass each; more made no better plans


@dataclass(frozen=True)
class BitPlan:
    """What a plan says and what it was chosen from; plain values, for JSON."""

    bits: dict[str, int]
    bits_asked: float  # average
    measure: str = ""
    errors: Mapping[str, Mapping[str, float]] | None = None  # name -> bits -> error, where measured
    curve: Sequence[Mapping[str, float]] = ()  # bits, error of the best plan at other budgets
    error: float = 0.0  # of this plan, as the sum of its layers'


@dataclass(frozen=True)
class PlanRequest:
    """What a bit plan is made for: average bits, what each weight may get, and what counts as an error."""

    bits: float
    candidates: tuple[int, ...]
    measure: str = "velocity"
    path: Path | None = None  # a plan to follow instead

    def check(self, weights: Mapping[str, Tensor]) -> None:
        """Refuses a budget that cannot be reached and a plan that does not fit, before anything is measured."""
        if self.path is not None:
            read_bits(self.path, list(weights))
            return
        for bits in self.candidates:
            check_bits(bits, "--candidates")
        if self.measure not in MEASURES:
            raise unknown("measure", self.measure, MEASURES)
        if not self.bits > 0:
            raise InputError(f"--bits {self.bits:g} must be above 0.", "Give an average, such as 4.3.")
        unmeasured = [
            Sensitivity(
                name,
                tuple(w.shape),
                w.numel(),
                0.0,
                dict.fromkeys(self.candidates, 0.0),
                {bits: palette_bytes(w.numel(), bits) for bits in self.candidates},
            )
            for name, w in weights.items()
        ]
        least, most = reachable(unmeasured)
        if not least <= self.bits <= max(most, max(self.candidates)):
            allowed = f"{np.ceil(least * 1000) / 1000:.3f} to {most:.3f}"
            raise InputError(
                f"--bits {self.bits:g} cannot be reached: candidates "
                f"{', '.join(map(str, self.candidates))} with their palettes reach {allowed} on average.",
                f"Choose a budget in that range, or other --candidates of {', '.join(map(str, BITS))}.",
            )


def follow(path: Path, weights: Mapping[str, Tensor]) -> BitPlan:
    """The plan in a file; a layer it leaves out stays float16."""
    bits = read_bits(path, list(weights))
    ordered = {name: bits[name] for name in weights if name in bits}
    reached = average(
        {name: palette_bytes(weights[name].numel(), b) for name, b in ordered.items()},
        {name: weights[name].numel() for name in ordered},
    )
    return BitPlan(ordered, round(reached, 6))


@dataclass(frozen=True)
class Sample:
    """What layers are measured on: the network's own trajectories for some prompts."""

    checkpoint: Checkpoint
    model: DiT
    prompts: Sequence[str]
    conditions: Conditions  # of the empty prompt and `prompts`
    sampling: Sampling
    partial: Path  # what is kept of a long measurement until it is whole


def measure_layers(request: PlanRequest, sample: Sample, say: Report, advance: Advance) -> list[Sensitivity]:
    """The sensitivity of every layer at every candidate, on the checkpoint's own trajectories."""
    if request.measure == "gradient":
        return measure_by_gradient(request, sample, say, advance)
    say(f"drawing {len(sample.prompts)} calibration prompts")
    batches = calibrate(
        sample.checkpoint, sample.model, sample.prompts, latent_size=sample.sampling.shape[1:], progress=advance
    )
    say("measuring the sensitivity of every layer")
    layers = measure(sample.model, batches, request.candidates, progress=advance)
    if request.measure != "velocity":
        return layers
    say("measuring the effect of every layer on the velocity")
    found = velocity_errors(sample.model, spread(batches, VELOCITY_ROWS), request.candidates, progress=advance)
    return [Sensitivity(**(vars(layer) | {"velocity": found[layer.name]})) for layer in layers]


def measure_by_gradient(request: PlanRequest, sample: Sample, say: Report, advance: Advance) -> list[Sensitivity]:
    """What every layer costs the velocity, to first order: a backward pass a point, whatever the layers."""
    say(f"drawing {GRADIENT_POINTS} points of trajectories")
    points = draw_points(
        sample.model, sample.conditions, sample.sampling, GRADIENT_POINTS, mixed_seed("gradient"), advance
    )
    inputs = [
        (points.latent[i : i + 1], points.t[i : i + 1], *sample.conditions.rows(points.row[i : i + 1]))
        for i in range(len(points))
    ]
    give_back()
    say("measuring the effect of every layer on the velocity by gradients")
    found = gradient_errors(
        sample.model, inputs, request.candidates, progress=advance, sums=read_sums(sample.partial, sample.model),
        keep=lambda sums: replace_json(sample.partial, sums.to_dict()),
    )  # fmt: skip
    return [
        Sensitivity(
            name, tuple(weight.shape), weight.numel(), 0.0, {},
            {bits: palette_bytes(weight.numel(), bits) for bits in request.candidates}, found[name],
        )
        for name, weight in quantizable(sample.model).items()
    ]  # fmt: skip


def read_sums(path: Path, model: DiT) -> Sums | None:
    """What an interrupted measurement by gradients has kept, if it was of this network."""
    if not path.is_file():
        return None
    with reading_stage(path):
        sums = Sums.from_dict(read_json(path, AGAIN))
        if list(sums.squares) != list(quantizable(model)) or not 0 < sums.points <= GRADIENT_POINTS:
            raise ValueError("layers or points are others")
        return sums


def write_layers(path: Path, layers: Sequence[Sensitivity]) -> None:
    """Measured layers as JSON, whole or not at all."""
    replace_json(path, [asdict(layer) for layer in layers])


def read_layers(path: Path) -> list[Sensitivity]:
    """The inverse of `write_layers`."""

    def by_bits(values: Mapping[str, float]) -> dict[int, float]:
        return {int(bits): value for bits, value in values.items()}

    return [
        Sensitivity(
            entry["name"],
            tuple(entry["shape"]),
            entry["count"],
            entry["power"],
            by_bits(entry["output"]),
            {bits: int(size) for bits, size in by_bits(entry["bytes"]).items()},
            by_bits(entry["velocity"]),
        )
        for entry in read_json(path, AGAIN)
    ]


def choose(request: PlanRequest, layers: Sequence[Sensitivity]) -> BitPlan:
    """The plan of least error within the budget, and what other budgets would cost."""
    plan = allocate(layers, request.bits, request.measure)
    least, most = reachable(layers)
    others = [
        allocate(layers, float(budget), request.measure)
        for budget in np.linspace(np.ceil(least * 1000) / 1000, most, CURVE_POINTS)
    ]
    errors = {
        layer.name: {str(bits): error for bits, error in layer.errors(request.measure).items()} for layer in layers
    }
    curve = [{"bits": round(other.average_bits, 6), "error": other.error} for other in others]
    return BitPlan(plan.bits, request.bits, request.measure, errors, curve, plan.error)


def as_plan(plan: BitPlan, shapes: Mapping[str, tuple[int, ...]]) -> Plan:
    """A plan in the form of its file, to be edited and given back."""
    errors = plan.errors or {}
    return Plan(
        plan.bits_asked,
        plan.measure,
        {
            name: Choice(
                bits,
                shapes[name],
                palette_bytes(math.prod(shapes[name]), bits),
                {int(candidate): error for candidate, error in errors.get(name, {}).items()},
            )
            for name, bits in plan.bits.items()
        },
    )
