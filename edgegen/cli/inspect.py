"""The command `edgegen inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from edgegen.backends.registry import find_backend
from edgegen.cli.options import BackendList, BundleArgument, Json, split
from edgegen.show import size, table

if TYPE_CHECKING:
    from edgegen.inspection import Contents, Inspection


def inspect(bundle: BundleArgument, backend: BackendList = "", as_json: Json = False) -> None:
    """Lists operations, transposes, reshapes, parameters and bytes, and checks the Neural Engine's rules."""
    from edgegen import api, show

    console = show.console()
    with show.Progress(console) as progress:
        found = api.inspect_bundle(bundle, split(backend), progress)
    show.print_json(found.to_dict()) if as_json else show_inspection(show.results(), found)


def show_inspection(to: Console, found: Inspection) -> None:
    """What each artifact holds, and how the layout of foreign networks was found."""
    show_contents(to, found.components)
    if found.layouts:
        cells = [(x.component, x.backend, x.moves, counted(x.unknown) or "none") for x in found.layouts]
        to.print()
        to.print(table(("component", "back end", ">moves of data", "in a layout of their own"), cells))


def counted(operations: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in operations.items())


def show_contents(to: Console, all_contents: Sequence[Contents]) -> None:
    """What each artifact holds, then its operations, then the Neural Engine's findings by rule."""
    cells = [
        (
            c.component,
            c.backend,
            c.form,
            f"{c.operation_count:,}",
            c.transposes,
            c.reshapes,
            f"{c.parameters:,}",
            size(c.bytes),
            size(c.resident_bytes),
            "" if c.delegated is None else f"{c.delegated:,}",
        )
        for c in all_contents
    ]
    to.print(
        table(
            (
                "component",
                "back end",
                "form",
                ">operations",
                ">transposes",
                ">reshapes",
                ">parameters",
                ">file",
                ">resident",
                ">delegated",
            ),
            cells,
        )
    )
    for contents in all_contents:
        counts = escape(counted(contents.operations))
        to.print(f"\n[bold]{escape(contents.component)} on {escape(contents.backend)}[/]: {counts}", soft_wrap=True)
        if contents.storage:
            held = ", ".join(f"{name} {count:,}" for name, count in contents.storage.items())
            to.print(f"Stored: {held}", soft_wrap=True)
        if contents.not_delegated:
            to.print(f"Not in XNNPACK: {escape(counted(contents.not_delegated))}", soft_wrap=True)
        show_findings(to, contents)


def show_findings(to: Console, contents: Contents) -> None:
    """One line a rule: how often, an example, the remedy. `--json` lists every operation."""
    if not find_backend(contents.backend).lint:
        return
    counts = Counter(finding.rule for finding in contents.findings)
    rows = []
    for rule, count in sorted(counts.items()):
        first = next(finding for finding in contents.findings if finding.rule == rule)
        rows.append((rule, count, first.operation, first.what, first.remedy))
    if rows:
        to.print(table(("rule", ">times", "first operation", "what", "remedy"), rows))
    else:
        to.print("No Neural Engine rule is broken.")
