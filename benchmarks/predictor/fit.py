"""Fits edgegen's latency predictor to the published points and writes what edgegen ships: bench/parameters.json.

`python -m benchmarks.predictor.fit` prints every point with the prediction of a fit that had not seen it.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from benchmarks.predictor.models import OPERATIONS
from benchmarks.predictor.points import FOLDER, SETS, predictable, read_points
from edgegen.bench.fit import (
    Family,
    LeftOut,
    Point,
    cost_matrix,
    fit,
    fit_family,
    leave_one_out,
    widen_lonely,
    wrong_orders,
)
from edgegen.bench.predict import PARAMETERS, Parameters
from edgegen.files import file_digest, write_json

# ~32 MB of a Neural Engine (M4), above which work spills to memory: https://thedailyscout.com/s/P-ZHocVXAro
ON_CHIP_BYTES = 32e6
FAMILIES = (
    Family("Neural Engine", (0, 1, 2), ON_CHIP_BYTES),
    Family("Apple GPU", (0,), 0.0),
    Family("Hexagon", (0,), 0.0),
    Family("Adreno", (0,), 0.0),
    Family("CPU", (0,), 0.0),
)
LIMITS = {"Apple": 0.25, "Android": 0.35}  # of the median error left out


def main() -> int:
    sets = {name: [p for file in files for p in read_points(file)] for name, files in SETS.items()}
    able = {name: predictable(points) for name, points in sets.items()}
    points = [point for kept, _ in able.values() for point in kept]
    fitted, left = fit_all(points)
    write_json(PARAMETERS, record(fitted, left))
    for family in FAMILIES:
        print_family(family, fitted[family.name], [p for p in points if p.family == family.name], left[family.name])
    results = [judge(name, *able[name], [item for items in left.values() for item in items]) for name in sets]
    mistakes, outside = orders([p for p in points if p.fitted]), orders(points)
    print(f"\npairs predicted in the wrong order: {len(mistakes)}; with the point outside the model: {len(outside)}")
    print(*(f"  {a} / {b}" for a, b in outside), sep="\n")
    return 0 if all(results) and not mistakes else 1


def fit_all(points: list[Point]) -> tuple[dict[str, Parameters], dict[str, list[LeftOut]]]:
    """Parameters and left-out predictions of every family."""
    made = {family.name: fit_family([p for p in points if p.family == family.name], family) for family in FAMILIES}
    return widen_lonely({name: parameters for name, (parameters, _) in made.items()}), {
        name: left for name, (_, left) in made.items()
    }


def record(fitted: dict[str, Parameters], left: dict[str, list[LeftOut]]) -> dict:
    """What edgegen ships: parameters, the error of every point, and digests of what they were fitted to."""
    data = [*sorted((FOLDER / "published").glob("*.csv")), OPERATIONS]
    return {
        "command": "python -m benchmarks.predictor.fit",
        "data": {path.name: file_digest(path)[0] for path in data},
        "families": {
            name: {
                "parameters": asdict(parameters),
                "left_out": [
                    {
                        "point": item.point.label,
                        "published": item.point.milliseconds,
                        "predicted": round(item.predicted, 1),
                        "fitted": item.point.fitted,
                    }
                    for item in left[name]
                ],
            }
            for name, parameters in fitted.items()
        },
    }


def print_family(family: Family, parameters: Parameters, points: list[Point], left: list[LeftOut]) -> None:
    """A family's parameters and points."""
    error = "none" if parameters.error is None else f"{parameters.error:.0%}"
    print(
        f"\n{family.name}: compute_fraction {parameters.compute_fraction:.2f}, weight_passes "
        f"{parameters.weight_passes:.2f}, spill_passes {parameters.spill_passes:.2f}; median error left out {error}, "
        f"interval x{parameters.low:.2f} to x{parameters.high:.2f}"
    )
    by_chip = leave_one_out(points, family, by_chip=True)
    if by_chip:
        median = np.median([item.error for item in by_chip if item.point.fitted])
        print(f"  median error with the whole chip left out {median:.0%} over {len(by_chip)} points")
    for item in left:
        note = "" if item.point.fitted else "  outside the model, not fitted"
        print(
            f"  {item.point.label:45s} published {item.point.milliseconds:8.1f}  predicted {item.predicted:8.1f}  "
            f"{item.predicted / item.point.milliseconds - 1:+.0%}{note}"
        )


def judge(name: str, able: list[Point], unable: list[tuple[Point, str]], left: list[LeftOut]) -> bool:
    """Whether a set of points meets its limit; a point that cannot be predicted counts as infinitely wrong."""
    told = {id(item.point): item.error for item in left}
    errors = [told.get(id(point), np.inf) for point in able] + [np.inf] * len(unable)
    median = float(np.median(errors))
    print(
        f"\n{name}: median error left out {median:.1%} over {len(errors)} points (limit {LIMITS[name]:.0%}); "
        f"{sum(np.isinf(errors))} without a prediction"
    )
    for point, why in unable:
        print(f"  {point.label}: {why}")
    return median <= LIMITS[name]


def orders(points: list[Point]) -> list[tuple[str, str]]:
    """Pairs in the wrong order, predicted by the fit to all points."""
    found = []
    for family in FAMILIES:
        members = [point for point in points if point.family == family.name]
        predicted = cost_matrix(members, family) @ fit([p for p in members if p.fitted], family)
        found += wrong_orders(members, list(predicted))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
