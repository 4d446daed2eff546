"""The command `edgegen bench`: measures here or on a connected device, otherwise predicts and says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from edgegen.cli.options import Json, split
from edgegen.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from edgegen.bench.session import BenchRequest

HOST, MAC = "host", "mac"
Device = Annotated[
    str, typer.Option(metavar="NAME", help="host, mac (by the Swift app), or a device (edgegen devices).")
]
Bundles = Annotated[
    list[Path] | None,
    typer.Option("--bundle", metavar="DIR", help="May be repeated. Default: the newest below ./out."),
]
Component = Annotated[
    str, typer.Option(metavar="A,B", help="text_encoder, transformer (one step), decoder, picture, or others' names.")
]
Compare = Annotated[
    tuple[str, str] | None,
    typer.Option("--compare", metavar="A B", help="Two bundles, or two back ends of one, in turn."),
]
Trace = Annotated[
    Path | None, typer.Option(metavar="FILE.json", help="With --profile: for Perfetto or chrome://tracing.")
]
AppRows = Annotated[
    Path | None, typer.Option("--import", metavar="FILE.jsonl", help="Show and keep what a phone's app measured.")
]
ByAdb = Annotated[
    bool, typer.Option("--adb", help="With an Android --device: its app measures, on the phone plugged in.")
]


def bench(
    device: Device = HOST,
    bundle: Bundles = None,
    backend: Annotated[str, typer.Option(metavar="A,B", help="onnx, executorch; coreml on a Mac.")] = "",
    component: Component = "",
    compare: Compare = None,
    profile: Annotated[bool, typer.Option("--profile", help="Where the time goes, by module.")] = False,
    trace: Trace = None,
    runs: Annotated[int, typer.Option(metavar="N", help="At least so many runs of each ...")] = 20,
    seconds: Annotated[float, typer.Option(metavar="S", help="... or so many seconds.")] = 10.0,
    threads: Annotated[int, typer.Option(metavar="N", help="1 varies least and compares across machines.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Report even what is too noisy to tell.")] = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE.html", help="A page with plots, in one file.")] = None,
    record: Annotated[Path, typer.Option(metavar="FILE.jsonl", help="Rows are appended here.")] = Path(
        "out/measurements.jsonl"
    ),
    import_file: AppRows = None,
    by_adb: ByAdb = False,
    as_json: Json = False,
) -> None:
    """Measures a bundle's components in turn on this machine, or predicts them for a device that is not here."""
    from edgegen import show
    from edgegen.bench.measure import Settings
    from edgegen.bench.session import BenchRequest, check_files

    request = BenchRequest(
        tuple(bundle or ()),
        tuple(split(backend)),
        tuple(split(component)),
        compare,
        Settings(runs=runs, seconds=seconds, threads=threads),
        force,
        record,
    )
    check_files(report, trace, profile)
    console = show.console()
    if import_file or by_adb:
        from edgegen.cli.bench_phone import by_app

        document = by_app(console, device, request, import_file, by_adb, report, as_json)
    elif device == MAC:
        document = on_mac(console, request, report, as_json)
    elif device != HOST:
        document = on_device(console, device, request, report, as_json)
    elif profile:
        document = profiled(console, request, report, trace, as_json)
    else:
        document = measured(console, request, report, as_json)
    if as_json:
        show.print_json(document)


def headed(console: Console, report: Callable[[str], None]) -> Callable[[str], None]:
    """The reports behind a first line that says what they are; it waits for the first, so that an error is one line."""
    first = [True]

    def tell(line: str) -> None:
        if first:
            console.print(f"[bold]{HOST}[/], source: measured")
            first.clear()
        report(line)

    return tell


def measured(console: Console, request: BenchRequest, report: Path | None, as_json: bool) -> dict[str, Any]:
    """Measures here and shows it."""
    from edgegen import show
    from edgegen.bench import report as page
    from edgegen.bench.session import measure_host
    from edgegen.cli import bench_tables as tables

    with show.Progress(console) as progress:
        outcome = measure_host(request, headed(console, progress), progress.advance)
    if not as_json:
        tables.show_measured(show.results(), outcome.rows)
        if outcome.comparisons:
            tables.show_comparisons(show.results(), outcome.comparisons)
        for note in outcome.notes:
            console.print(escape(note), soft_wrap=True)
        console.print(f"Recorded: {escape(str(request.record))}", soft_wrap=True)
    if report:
        page.write(report, outcome.rows, outcome.comparisons)
    return outcome.to_dict()


def profiled(
    console: Console, request: BenchRequest, report: Path | None, trace: Path | None, as_json: bool
) -> dict[str, Any]:
    """Profiles here and shows it."""
    from dataclasses import asdict

    from edgegen import show
    from edgegen.bench import report as page
    from edgegen.bench.profile import traces
    from edgegen.bench.session import profile_host
    from edgegen.cli import bench_tables as tables

    with show.Progress(console) as progress:
        profiles = profile_host(request, headed(console, progress))
    if not as_json:
        for title, operations in profiles.items():
            tables.show_profile(show.results(), title, operations)
    if report:
        page.write(report, [], [], profiles)
    if trace:
        trace.write_text(json.dumps(traces(profiles)), encoding="utf-8")
    return {
        "source": "measured",
        "device": HOST,
        "profiles": [
            {"artifact": title, "operations": [asdict(operation) for operation in operations]}
            for title, operations in profiles.items()
        ],
    }


def on_mac(console: Console, request: BenchRequest, report: Path | None, as_json: bool) -> dict[str, Any]:
    """Measures Core ML on this Mac with the Swift app's own code."""
    from edgegen import show
    from edgegen.bench import report as page
    from edgegen.bench.mac import measure_mac
    from edgegen.cli import bench_tables as tables

    with show.Progress(console) as progress:
        rows = measure_mac(request, progress)
    if not as_json:
        tables.show_measured(show.results(), rows)
    if report:
        page.write(report, rows)
    return {"source": "measured", "device": MAC, "rows": rows}


def on_device(console: Console, name: str, request: BenchRequest, report: Path | None, as_json: bool) -> dict[str, Any]:
    """Measures on a connected device; otherwise predicts, and says so first."""
    from edgegen import api, show
    from edgegen.bench import report as page
    from edgegen.bench.remote import find_target, measure_remote
    from edgegen.cli import bench_tables as tables

    target, identifier = find_target(name)
    if identifier is None:
        if request.compare:
            raise InputError(f"--compare measures; {target.title} is not here.", "Compare on --device host.")
        rows = api.predict_latency(request.bundles, target, request.backends, request.components).rows
        (console if as_json else show.results()).print(
            f"[bold]{escape(target.title)}[/], source: [yellow]predicted[/]: no such device is connected, nothing "
            "here was measured."
        )
    else:
        console.print(f"[bold]{escape(target.title)}[/], source: measured")
        with show.Progress(console) as progress:
            rows = measure_remote(target, identifier, request, progress.advance)
    if not as_json:
        (tables.show_predicted if identifier is None else tables.show_measured)(show.results(), rows)
    if report:
        page.write(report, rows)
    return {"source": rows[0]["source"], "device": target.name, "rows": rows}
