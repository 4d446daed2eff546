"""How results look: tables and progress for people on stderr, JSON for machines on stdout."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich import get_console
from rich.console import Console
from rich.markup import escape
from rich.table import Table

PEOPLE_WIDTH = 120  # of tables that go to a file


def console() -> Console:
    """stderr, by a handle of its own that stays open while converters are kept quiet."""
    width = None if sys.stderr.isatty() else PEOPLE_WIDTH
    return Console(file=os.fdopen(os.dup(2), "w", encoding="utf-8"), width=width, highlight=False, soft_wrap=False)


def progress_console() -> Console:
    """Where progress goes: the notebook's cell in a notebook, stderr elsewhere."""
    notebook = get_console()
    return notebook if notebook.is_jupyter else console()


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

    def __init__(self, to: Console | None = None):
        to = to or progress_console()
        self.console, self.line, self.start = to, "", 0.0
        self.status = to.status("") if to.is_terminal or to.is_jupyter else None

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
