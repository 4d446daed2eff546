"""One `edgegen bench`: what to measure, measured group by group, each recorded as soon as it is whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgegen.backends.registry import backend_names, find_backend
from edgegen.bench import records
from edgegen.bench.compare import Comparison, compare
from edgegen.bench.host import Candidate, ChildRunner, candidates, check_threads
from edgegen.bench.measure import Measurement, Runner, Settings, measure_, require_quiet
from edgegen.bench.parts import PICTURE, in_order, is_drawn, is_picture
from edgegen.bench.profile import TimedOperation
from edgegen.bench.row import measured_row
from edgegen.bundle import Bundle, load_bundle
from edgegen.callbacks import Advance, Report
from edgegen.errors import EdgegenError, InputError
from edgegen.generate import newest_bundle

ATTEMPTS = 2  # a noisy group is measured once more before it is given up
MakeRunner = Callable[[Candidate, Settings], Runner]


@dataclass(frozen=True)
class BenchRequest:
    """What to measure; empty means all there is."""

    bundles: tuple[Path, ...] = ()  # the newest below ./out
    backends: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    compare: tuple[str, str] | None = None  # two bundles, or two back ends of one
    settings: Settings = Settings()
    force: bool = False
    record: Path = Path("out/measurements.jsonl")


@dataclass
class Outcome:
    """Rows in the order they were measured, what was compared, and what is to be told of them."""

    rows: list[dict] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was not measured, in words

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": "measured",
            "device": "host",
            "rows": self.rows,
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "notes": self.notes,
        }


def open_bundles(folders: Sequence[Path]) -> list[Bundle]:
    """The bundles given, or the newest one; files that changed since they were written are an error."""
    return [load_bundle(folder) for folder in folders or (newest_bundle(Path("out")),)]


def measure_host(
    request: BenchRequest,
    report: Report = lambda line: None,
    advance: Advance = lambda done, of: None,
    make_runner: MakeRunner = ChildRunner,
) -> Outcome:
    """Measures on this machine: all candidates of a component in turn, component after component.

    Each group's rows are recorded once it is whole; an interruption records what it has, marked partial. A group that
    is too noisy twice is an EdgegenError, after the others were recorded, unless forced.
    """
    check_threads(request.settings)
    groups = group_candidates(request)
    environment, outcome, noisy = records.environment(), Outcome(), []
    for component, group in groups.items():
        report(f"measuring {component}: {', '.join(dict.fromkeys(c.backend for c in group))}")
        measurements = measure_group(request, group, environment, advance, make_runner)
        if not request.force and any(m.is_noisy for m in measurements):
            noisy += measurements
            continue
        outcome.rows += record(request, group, measurements, environment)
        if request.compare:
            outcome.comparisons.append(compare(component, measurements))
    require_quiet([m for m in noisy if m.is_noisy])
    require_measured(outcome.rows)
    outcome.notes += left_out(request, groups)
    return outcome


def require_measured(rows: Sequence[dict]) -> None:
    """Refuses to end well where nothing was measured."""
    if not rows:
        raise EdgegenError("nothing was measured.", "See what the bundle holds with edgegen inspect.")


def left_out(request: BenchRequest, groups: Mapping[str, Sequence[Candidate]]) -> list[str]:
    """What is to be told of the pictures of other projects' pipelines, which are measured where they are asked for."""
    drawn = any(is_drawn(candidate.bundle) for group in groups.values() for candidate in group)
    if not drawn or PICTURE in groups or request.components or request.compare:
        return []
    return ["A whole picture was not measured: --component picture draws it, with the steps of its own pipeline."]


def group_candidates(request: BenchRequest) -> dict[str, list[Candidate]]:
    """The candidates by component, all checked before the first is run."""
    if request.compare:
        pairs = sides(request)
        parts = [
            {c.component: c for c in candidates(bundle, (backend,), request.components)} for bundle, backend in pairs
        ]
        shared = [part for part in in_order([*parts[0]]) if all(part in side for side in parts)]
        if not shared:
            raise InputError(f"{' and '.join(request.compare)} have no component in common.")
        return {part: [side[part] for side in parts] for part in shared}
    found = [
        c for bundle in open_bundles(request.bundles) for c in candidates(bundle, request.backends, request.components)
    ]
    return {part: [c for c in found if c.component == part] for part in in_order([c.component for c in found])}


def sides(request: BenchRequest) -> list[tuple[Bundle, str]]:
    """The two sides of a comparison, each a bundle and a back end: two back ends of one bundle, or two bundles on the
    back end asked for, or on the first they share.
    """
    assert request.compare
    if all(name in backend_names() for name in request.compare):
        (bundle,) = open_bundles(request.bundles[:1])
        return [(bundle, name) for name in request.compare]
    bundles = [load_bundle(name) for name in request.compare]
    shared = [b for b in bundles[0].backends if b in bundles[1].backends and find_backend(b).runs_here()]
    backend = next(iter(request.backends or shared), None)
    if backend is None:
        raise InputError(
            f"{request.compare[0]} and {request.compare[1]} share no back end that runs here.",
            f"They have: {', '.join(bundles[0].backends)}; {', '.join(bundles[1].backends)}.",
        )
    return [(bundle, backend) for bundle in bundles]


def measure_group(
    request: BenchRequest, group: Sequence[Candidate], environment: dict, advance: Advance, make_runner: MakeRunner
) -> list[Measurement]:
    """Measures one component's candidates; records what there is if it is interrupted."""
    labels = [
        f"{side}{c.label}"
        for side, c in zip(("A: ", "B: ") if request.compare else [""] * len(group), group, strict=True)
    ]
    for _ in range(ATTEMPTS):
        measurements = [Measurement(label) for label in labels]
        runners = [make_runner(candidate, request.settings) for candidate in group]
        try:
            measure_(measurements, runners, request.settings, advance)
        except BaseException:
            record(request, group, measurements, environment)
            raise
        if request.force or not any(m.is_noisy for m in measurements):
            break
    return measurements


def record(
    request: BenchRequest, group: Sequence[Candidate], measurements: Sequence[Measurement], environment: dict
) -> list[dict]:
    """Appends the rows of a group; those that ran not once are left out."""
    labels = [m.label for m in measurements]
    rows = []
    for i, (candidate, measurement) in enumerate(zip(group, measurements, strict=True)):
        if measurement.rounds:
            others = labels[:i] + labels[i + 1 :]
            rows.append(measured_row(candidate, measurement, request.settings, others, environment))
            records.append(request.record, rows[-1])
    return rows


def profile_host(request: BenchRequest, report: Report = lambda line: None) -> dict[str, list[TimedOperation]]:
    """The operations of each artifact asked for, by its label; a back end that cannot be profiled is an error."""
    check_threads(request.settings)
    if request.compare:
        raise InputError("--profile and --compare exclude each other.", "Give one of them.")
    profiles = {}
    for bundle in open_bundles(request.bundles):
        for candidate in candidates(bundle, request.backends, request.components):
            if is_picture(bundle, candidate.component):
                continue
            report(f"profiling {candidate.label}")
            runner = ChildRunner(candidate, request.settings)
            try:
                found = runner.profile(request.settings.runs)
            finally:
                runner.close()
            profiles[candidate.label] = [TimedOperation(**operation) for operation in found]
    if not profiles:
        raise InputError("a whole picture has no profile of its own.", "Profile its components.")
    return profiles


def check_files(report: Path | None, trace: Path | None, profile: bool) -> None:
    """Refuses files that cannot be written, before anything is measured."""
    if trace and not profile:
        raise InputError("--trace needs --profile.", "Add --profile.")
    for path, suffix in ((report, ".html"), (trace, ".json")):
        if path is None:
            continue
        if path.suffix != suffix:
            raise InputError(f"{path} does not end in {suffix}.", f"Name it so, such as bench{suffix}.")
        if not path.absolute().parent.is_dir():
            raise InputError(f"folder {path.parent} does not exist.", "Make it, or choose another file.")
