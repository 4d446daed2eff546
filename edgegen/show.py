"""How results look: tables and progress for people on stderr, JSON for machines on stdout."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgegen.backends.registry import find_backend

if TYPE_CHECKING:
    from edgegen.doctor import Health
    from edgegen.export import Plan, Result
    from edgegen.generate import Drawn
    from edgegen.inspection import Contents
    from edgegen.target import Device, Figure, Tier
    from edgegen.verify import Row

PEOPLE_WIDTH = 120  # of tables that go to a file


def console() -> Console:
    """stderr, by a handle of its own that stays open while converters are kept quiet."""
    width = None if sys.stderr.isatty() else PEOPLE_WIDTH
    return Console(file=os.fdopen(os.dup(2), "w", encoding="utf-8"), width=width, highlight=False, soft_wrap=False)


def print_json(value: Any) -> None:
    """The one document of a `--json` command."""
    print(json.dumps(value, indent=2, allow_nan=False, default=str))


def print_error(message: str, remedy: str, code: int, as_json: bool) -> None:
    """One line on stderr, and with `--json` the error as the document."""
    line = " ".join(f"{message} {remedy}".split())
    red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
    print(f"{red}error:{plain} {line}", file=sys.stderr)
    if as_json:
        print_json({"error": {"message": message, "remedy": remedy, "exit_code": code}})


class Progress:
    """What is being done, with the time each step took: a spinner on a terminal, lines elsewhere."""

    def __init__(self, to: Console):
        self.console, self.line, self.start = to, "", 0.0
        self.status = to.status("") if to.is_terminal else None

    def __enter__(self) -> Progress:
        if self.status:
            self.status.start()
        return self

    def __exit__(self, kind: type | None, *rest: object) -> None:
        self.end("[red]x[/]" if kind else "[green]+[/]")
        if self.status:
            self.status.stop()

    def __call__(self, line: str) -> None:
        self.end("[green]+[/]")
        self.line, self.start = line, time.perf_counter()
        if self.status:
            self.status.update(escape(line))

    def advance(self, done: int, of: int) -> None:
        """A bar behind the current line."""
        if self.status:
            full = round(24 * done / of)
            self.status.update(f"{escape(self.line)} [green]{'━' * full}[/][dim]{'━' * (24 - full)}[/] {done}/{of}")

    def end(self, mark: str) -> None:
        if self.line:
            self.console.print(f"{mark} {escape(self.line)} [dim]{time.perf_counter() - self.start:.1f} s[/]")
        self.line = ""


def size(count: float) -> str:
    """Bytes in MB or GB, decimal."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> Table:
    """A plain table; a column whose name starts with > is aligned to the right."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold", title_style="bold")
    for column in columns:
        made.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made


def show_result(to: Console, result: Result) -> None:
    """The table of an export, and what to type next."""
    plan = result.plan
    rows = []
    for artifact, count in zip(result.artifacts, result.operations, strict=True):
        row = result.row(artifact.name, artifact.backend)
        rows.append((artifact.name, artifact.backend, f"{artifact.bytes:,}", f"{count:,}", *decibels(row)))
    rows += [(row.component, row.backend, "", "", *decibels(row)) for row in result.rows if row.component == "picture"]
    to.print(
        table(
            ("component", "back end", ">bytes", ">operations", ">PSNR", ">floor"),
            rows,
            f"{plan.checkpoint.config.name}, tier {plan.tier.name}, width {plan.tier.width:g}, "
            f"{plan.resolution[0]}x{plan.resolution[1]}",
        )
    )
    if plan.checkpoint.is_random:
        to.print("[yellow]Random weights: the pictures mean nothing.[/]")
    to.print(f"{result.seconds:.0f} s, {size(result.peak_bytes)} of memory at the peak.")
    to.print(f"Bundle: {escape(str(plan.out))}", soft_wrap=True)
    if result.sample:
        to.print(f"Sample: {escape(str(result.sample))}", soft_wrap=True)
        prompt = plan.checkpoint.config.prompts[0]
        to.print(
            f"Next: [bold]edgegen generate {escape(repr(prompt))} --bundle {escape(str(plan.out))}[/]", soft_wrap=True
        )
    else:
        to.print(f"Next: [bold]edgegen inspect {escape(str(plan.out))}[/]", soft_wrap=True)


def decibels(row: Row) -> tuple[str, str]:
    """PSNR and floor; equality has no decibels."""
    colour = "green" if row.passed else "red"
    value = "equal" if row.psnr_db >= 200 else f"{row.psnr_db:.1f} dB" if row.finite else "not finite"
    return f"[{colour}]{value}[/]", f"{row.floor_db:g} dB"


def show_plan(to: Console, plan: Plan) -> None:
    """A dry run: everything here is predicted."""
    rows = [(part.component, part.backend, f"{part.parameters:,}", size(part.bytes)) for part in plan.parts]
    to.print(
        table(
            ("component", "back end", ">parameters", ">size, predicted"),
            rows,
            f"{plan.checkpoint.config.name}, tier {plan.tier.name}, width {plan.tier.width:g}, "
            f"{plan.resolution[0]}x{plan.resolution[1]}",
        )
    )
    if plan.checkpoint.is_random:
        to.print("[yellow]Random weights: the pictures would mean nothing.[/]")
    to.print(
        f"Would write about {size(plan.bytes)} to {escape(str(plan.out))} and take about "
        f"{size(plan.memory_bytes)} of memory (both predicted). Nothing was written.",
        soft_wrap=True,
    )


def show_drawn(to: Console, drawn: Drawn) -> None:
    """Where a picture is and how it was made."""
    if drawn.random_weights:
        to.print("[yellow]Random weights: the picture means nothing.[/]")
    to.print(
        f"{escape(drawn.picture)}: {drawn.resolution[0]}x{drawn.resolution[1]}, {drawn.steps} steps, guidance "
        f"{drawn.guidance:g}, seed {drawn.seed}, {drawn.backend}, {drawn.seconds:.1f} s",
        soft_wrap=True,
    )


def show_rows(to: Console, rows: Sequence[Row]) -> None:
    """Verification rows."""
    cells = [
        (
            row.component,
            row.backend,
            row.evaluator,
            row.inputs,
            *decibels(row),
            f"{row.max_abs:.2g}",
            "yes" if row.passed else "[red]NO[/]",
        )
        for row in rows
    ]
    to.print(
        table(
            ("component", "back end", "evaluator", ">inputs", ">PSNR", ">floor", ">max |difference|", "passed"), cells
        )
    )


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
        counts = ", ".join(f"{name} {count}" for name, count in contents.operations.items())
        to.print(f"\n[bold]{contents.component} on {contents.backend}[/]: {escape(counts)}", soft_wrap=True)
        if contents.not_delegated:
            left = ", ".join(f"{name} {count}" for name, count in contents.not_delegated.items())
            to.print(f"Not in XNNPACK: {escape(left)}", soft_wrap=True)
        show_findings(to, contents)


def show_findings(to: Console, contents: Contents) -> None:
    """One line a rule: how often, an example, the remedy. `--json` lists every operation."""
    if not find_backend(contents.backend).lint:
        return
    counts = Counter(finding.rule for finding in contents.findings)
    rows = []
    for rule, count in sorted(counts.items()):
        first = next(finding for finding in contents.findings if finding.rule == rule)
        rows.append((rule, count, escape(first.operation), escape(first.what), first.remedy))
    if rows:
        to.print(table(("rule", ">times", "first operation", "what", "remedy"), rows))
    else:
        to.print("No Neural Engine rule is broken.")


def show_tiers(to: Console, tiers: Sequence[Tier]) -> None:
    """Tiers, one line a back end."""
    cells = [
        (t.name, f"{t.width:g}", b.name, b.attention, b.precision, f"{b.floor_db:g} dB", t.summary)
        for t in tiers
        for b in t.backends.values()
    ]
    to.print(table(("tier", ">width", "back end", "attention", "precision", ">floor", "for"), cells))


def show_devices(to: Console, devices: Sequence[Device]) -> None:
    """Devices, and of how many figures the source was opened; `--json` gives the source of every figure."""

    def known(figure: Figure | None, unit: str) -> str:
        return f"{figure.value:g} {unit}" if figure else "-"

    cells = [
        (
            d.name,
            d.title,
            d.chip.value,
            d.year.value,
            known(d.memory_gb, "GB"),
            known(d.app_memory_gb, "GB"),
            known(d.bandwidth_gbs, "GB/s"),
            ", ".join(d.units) or "-",
            f"{sum(f.checked for f in d.figures.values())} of {len(d.figures)}",
            d.tier,
        )
        for d in devices
    ]
    to.print(
        table(
            (
                "device",
                "name",
                "chip",
                ">year",
                ">memory",
                ">for one app",
                ">bandwidth",
                "rates known",
                ">checked",
                "tier",
            ),
            cells,
        )
    )
    if len(devices) == 1:
        for name, figure in devices[0].figures.items():
            if not figure.checked:
                to.print(f"{name}: {escape(figure.source)}", soft_wrap=True)


def show_health(to: Console, health: Health) -> None:
    """What works here."""

    def cell(ability: Any) -> str:
        return f"[{'green' if ability.works else 'red'}]{'yes' if ability.works else 'no'}[/] {escape(ability.note)}"

    to.print(
        table(
            ("back end", "convert", "verify", "run"),
            [(b.backend, cell(b.convert), cell(b.verify), cell(b.run)) for b in health.backends],
        )
    )
    to.print(", ".join(f"{name} {version}" for name, version in health.versions.items()))
    memory = f"{health.memory_bytes / 2**30:.0f} GiB of memory" if health.memory_bytes else "unknown memory"
    to.print(
        f"Python {health.python}, {health.system}, {health.cores} cores, {memory}, "
        f"{health.free_disk_bytes / 2**30:.0f} GiB of disk free"
    )
    bundled = "found" if health.bundled_checkpoint else "[red]missing[/]"
    to.print(f"bundled checkpoint: {bundled}; targets: {escape(health.targets)}", soft_wrap=True)
