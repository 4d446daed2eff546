"""Which layer gets how many bits: the plan of least total error whose average stays under a budget.

The average counts palettes: 8 times the bytes of all palettized layers over their elements.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgegen.errors import InputError, brief, unknown
from edgegen.files import write_json
from edgegen.quantize.palette import BITS
from edgegen.quantize.sensitivity import MEASURES, Sensitivity
from edgegen.strict_json import read_json

FORMAT_VERSION = 1
UNITS = 2**17  # the budget in whole units: each layer's bytes are rounded up to one
TOLERANCE = 0.02  # of the average reached, below the one asked


@dataclass(frozen=True)
class Choice:
    """One layer of a plan."""

    bits: int
    shape: tuple[int, ...]
    bytes: int
    errors: dict[int, float]  # by candidate bits


@dataclass(frozen=True)
class Plan:
    """Bits for each layer, by weight name; a layer left out stays fp16."""

    budget: float
    measure: str  # what `errors` are: output, relative or velocity
    layers: dict[str, Choice]

    @property
    def bits(self) -> dict[str, int]:
        return {name: choice.bits for name, choice in self.layers.items()}

    @property
    def average_bits(self) -> float:
        """Over the layers of the plan, palettes counted."""
        return average(
            {name: choice.bytes for name, choice in self.layers.items()},
            {name: int(np.prod(choice.shape)) for name, choice in self.layers.items()},
        )

    @property
    def error(self) -> float:
        return sum(choice.errors[choice.bits] for choice in self.layers.values())


def average(sizes: Mapping[str, int], counts: Mapping[str, int]) -> float:
    """Bits an element of layers of so many bytes and elements."""
    return 8 * sum(sizes.values()) / sum(counts.values())


def reachable(layers: Sequence[Sensitivity]) -> tuple[float, float]:
    """The least and the most average bits that plans of these layers have."""
    count = sum(layer.count for layer in layers)
    return tuple(8 * sum(pick(layer.bytes.values()) for layer in layers) / count for pick in (min, max))  # type: ignore


def allocate(layers: Sequence[Sensitivity], budget: float, measure: str = "output") -> Plan:
    """The plan of least summed error with an average of at most `budget` bits, and at least 0.02 below it.

    Solved exactly up to rounding sizes to 1/131,072 of the budget, by dynamic programming over the bytes used. A budget
    no plan reaches is an error that says the range.
    """
    if measure not in MEASURES:
        raise unknown("measure", measure, MEASURES)
    least, most = reachable(layers)
    if not least <= budget:
        raise InputError(
            f"{budget:g} bits on average cannot be reached: candidates {_candidates(layers)} with their "
            f"palettes reach {_up(least)} to {most:.3f}.",
            "Choose a budget in that range, or add a smaller candidate.",
        )
    if budget > max(BITS) + 1:
        raise InputError(
            f"a budget of {budget:g} bits is above what palettes come in; the candidates reach "
            f"{_up(least)} to {most:.3f}.",
            "Choose a budget in that range.",
        )
    count = sum(layer.count for layer in layers)
    capacity = budget * count / 8  # bytes
    if budget >= most:
        chosen = [max(layer.bytes) for layer in layers]
    else:
        chosen = _solve(layers, [layer.errors(measure) for layer in layers], capacity, count)
    picked = {
        layer.name: Choice(bits, layer.shape, layer.bytes[bits], layer.errors(measure))
        for layer, bits in zip(layers, chosen, strict=True)
    }
    return Plan(budget, measure, picked)


def _candidates(layers: Sequence[Sensitivity]) -> str:
    return ", ".join(str(bits) for bits in sorted({bits for layer in layers for bits in layer.bytes}))


def _up(bits: float) -> str:
    """Three digits that are no less: a budget of just this can be asked for."""
    return f"{np.ceil(bits * 1000) / 1000:.3f}"


def _solve(
    layers: Sequence[Sensitivity], errors: Sequence[Mapping[int, float]], capacity: float, count: int
) -> list[int]:
    """Bits of each layer; sizes beyond each layer's smallest are what is shared out."""
    floor = sum(min(layer.bytes.values()) for layer in layers)
    unit = max((capacity - floor) / UNITS, 1e-9)
    room = int((capacity - floor) / unit + 1e-9)
    costs = [
        {bits: _units(size - min(layer.bytes.values()), unit) for bits, size in layer.bytes.items()} for layer in layers
    ]
    error = np.full(room + 1, np.inf)  # least error of the layers so far by units used, exactly
    error[0] = 0
    picks = []
    for cost, by_bits in zip(costs, errors, strict=True):
        following, pick = np.full(room + 1, np.inf), np.zeros(room + 1, np.uint8)
        for bits in sorted(cost):
            used = cost[bits]
            if used > room:
                continue
            total = error[: room + 1 - used] + by_bits[bits]
            better = total < following[used:]
            following[used:][better] = total[better]
            pick[used:][better] = bits
        error = following
        picks.append(pick)
    near = max(0, room - int(0.8 * TOLERANCE * count / 8 / unit))
    window = error[near:] if np.isfinite(error[near:]).any() else error
    used = int(window.argmin()) + (near if window is not error else 0)
    chosen = []
    for cost, pick in zip(reversed(costs), reversed(picks), strict=True):
        bits = int(pick[used])
        chosen.append(bits)
        used -= cost[bits]
    return _fill(layers, errors, chosen[::-1], capacity)


def _units(size: float, unit: float) -> int:
    """Whole units that hold `size` bytes."""
    return int(np.ceil(size / unit - 1e-9))


def _fill(
    layers: Sequence[Sensitivity], errors: Sequence[Mapping[int, float]], chosen: list[int], capacity: float
) -> list[int]:
    """Uses what rounding left: the step of most error a byte that still fits, until none does."""
    while True:
        spare = capacity - sum(layer.bytes[bits] for layer, bits in zip(layers, chosen, strict=True))
        steps = []
        for index, (layer, bits) in enumerate(zip(layers, chosen, strict=True)):
            for more, size in layer.bytes.items():
                extra, gain = size - layer.bytes[bits], errors[index][bits] - errors[index][more]
                if 0 < extra <= spare and gain > 0:
                    steps.append((gain / extra, index, more))
        if not steps:
            return chosen
        _, index, more = max(steps)
        chosen[index] = more


def write_plan(path: Path, plan: Plan) -> None:
    """A plan as JSON: one entry a layer, to be read, edited and given back."""
    write_json(
        path,
        {
            "format_version": FORMAT_VERSION,
            "budget": plan.budget,
            "average_bits": round(plan.average_bits, 4),
            "measure": plan.measure,
            "layers": {
                name: {
                    "bits": choice.bits,
                    "shape": list(choice.shape),
                    "bytes": choice.bytes,
                    "errors": {str(bits): error for bits, error in sorted(choice.errors.items())},
                }
                for name, choice in plan.layers.items()
            },
        },
    )


def read_bits(path: Path, names: Sequence[str]) -> dict[str, int]:
    """Name to bits of a plan's file, edited or not; only `bits` is read. A layer left out stays fp16.

    A layer that is none of `names` is an error with the closest one, as is a number of bits palettes do not come in.
    """
    values: Any = read_json(path, "Give a plan that quantize wrote.")
    layers = values.get("layers") if isinstance(values, dict) else None
    if not isinstance(layers, dict) or not layers or values.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"plan {path} lacks its layers, or its format_version is not {FORMAT_VERSION}.",
            "Start from a plan that quantize wrote.",
        )
    bits = {}
    for name, entry in layers.items():
        if name not in names:
            close = difflib.get_close_matches(name[:200], names, 1, cutoff=0.4)
            raise InputError(
                f"plan {path}: no palettized layer is called {brief(name)}.",
                f"Did you mean {close[0]}?" if close else f"One is {names[0]}.",
            )
        found = entry.get("bits") if isinstance(entry, dict) else entry
        if type(found) is not int or found not in BITS:
            raise InputError(
                f"plan {path}: {name} has bits {brief(found)}, none of {', '.join(map(str, BITS))}.",
                "Correct the file.",
            )
        bits[name] = found
    return bits
