"""Two candidates against each other: the ratio of their medians, from rounds they ran in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from edgegen.bench.measure import Measurement
from edgegen.bench.statistics import Ratio, ratio_of_medians
from edgegen.errors import InputError


@dataclass(frozen=True)
class Comparison:
    """How many times longer A takes than B in one component."""

    component: str
    a: str
    b: str
    ratio: Ratio

    @property
    def verdict(self) -> str:
        """In words; an interval that holds 1 shows no difference."""
        if not self.ratio.is_clear:
            return "no difference shown"
        factor = self.ratio.value if self.ratio.value > 1 else 1 / self.ratio.value
        return f"{'B' if self.ratio.value > 1 else 'A'} is {factor:.2f}x faster"

    def to_dict(self) -> dict:
        return {"component": self.component, "a": self.a, "b": self.b, **asdict(self.ratio), "verdict": self.verdict}


def compare(component: str, pair: Sequence[Measurement]) -> Comparison:
    """The comparison of two measurements whose rounds were taken in turn."""
    a, b = pair
    if not a.rounds or len(a.rounds) != len(b.rounds):
        raise InputError(
            f"{a.label} has {len(a.rounds)} rounds and {b.label} {len(b.rounds)}: they did not run in turn.",
            "Measure both in one run.",
        )
    return Comparison(component, a.label, b.label, ratio_of_medians(a.rounds, b.rounds))
