"""An export that has nothing left to do: its bundle is there, and was made of what is asked now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgegen.bundle import MANIFEST, SAMPLE, Bundle, load_bundle
from edgegen.export import Result
from edgegen.folders import listed_files
from edgegen.inspection import count_operations
from edgegen.plan import Plan
from edgegen.schema import from_values
from edgegen.verify import Row, read_rows


def finished(plan: Plan) -> Result | None:
    """What an earlier export made of this very plan, every file checked; None where there is none, or a part is
    missing because it failed its check.
    """
    if not listed_files(plan.out / MANIFEST):
        return None
    bundle = load_bundle(plan.out)
    if bundle.manifest.asked != plan.asked:
        return None
    rows = [from_values(Row, values) for values in read_rows(plan.out)]
    first, *others = (tier_result(each, bundle, rows) for each in (plan, *plan.others))
    if first is None or None in others:
        return None
    return replace(first, others=tuple(result for result in others if result is not None))


def tier_result(plan: Plan, bundle: Bundle, rows: Sequence[Row]) -> Result | None:
    """The result of one tier as the bundle holds it; None where a part of the plan is not there."""
    placed = bundle.at(plan.inside) if plan.inside else bundle
    if {(part.component, part.backend) for part in plan.parts} != {(a.network, a.backend) for a in placed.own}:
        return None
    operations = tuple(count_operations(a.backend, bundle.root / a.path) for a in placed.own)
    sample = placed.folder / SAMPLE
    drawn = sample if sample.is_file() else None
    told = tuple(row for row in rows if row.tier == plan.tier.name)
    return Result(plan, placed.own, operations, told, (), drawn, 0.0)
