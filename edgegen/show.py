"""How results look: results on stdout, as tables for people or JSON for machines; progress and warnings on stderr."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import get_console
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from edgegen.process import RESTING, goes_on
from edgegen.streams import for_people

PEOPLE_WIDTH = 120  # of what goes to stderr where that is no terminal
UNBOUNDED = 10_000  # columns of a table that goes to a file or a pipe
LEAST_TO_TELL = 2.0  # seconds of a stage before it is told how long it will yet take
HEARTBEAT = 30.0  # seconds after which a stage says that it goes on, where there is no spinner
THREAD_END = 1.0  # seconds within which a thread that was told to end does


def console() -> Console:
    """stderr, by a handle of its own that stays open while converters are kept quiet."""
    width = None if sys.stderr.isatty() else PEOPLE_WIDTH
    return Console(file=for_people(), width=width, highlight=False, soft_wrap=False)


def results() -> Console:
    """stdout; into a file or a pipe, a row of a table is one line, however long."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else UNBOUNDED, highlight=False)


def progress_console() -> Console:
    """Where progress goes: the notebook's cell in a notebook, stderr elsewhere."""
    notebook = get_console()
    return notebook if notebook.is_jupyter else console()


def print_json(value: Any) -> None:
    """The one document of a `--json` command."""
    print(json.dumps(value, indent=2, allow_nan=False, default=str), flush=True)


def print_error(message: str, remedy: str, code: int, as_json: bool) -> None:
    """One line on stderr, and with `--json` the error as the document."""
    line = " ".join(f"{message} {remedy}".split())
    red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
    print(f"{red}error:{plain} {line}", file=sys.stderr)
    if as_json:
        print_json({"error": {"message": message, "remedy": remedy, "exit_code": code}})


class Progress:
    """What is being done, with the time each step took: a spinner on a terminal, lines elsewhere, at least every
    `HEARTBEAT` seconds.
    """

    def __init__(self, to: Console | None = None):
        to = to or progress_console()
        self.console, self.line, self.start = to, "", 0.0
        self.steps, self.ended = "", threading.Event()
        self.status = to.status("") if to.is_terminal or to.is_jupyter else None
        self.threads: set[threading.Thread] = set()

    def __enter__(self) -> Progress:
        self.begin()
        RESTING.append(self.rest)
        return self

    def __exit__(self, kind: type | None, *rest: object) -> None:
        RESTING.remove(self.rest)
        self.end("[red]x[/]" if kind else "[green]+[/]")
        self.pause()

    def begin(self) -> None:
        """Starts what shows that a step goes on, which takes a thread."""
        before, self.ended = set(threading.enumerate()), threading.Event()
        if self.status:
            self.status.start()
        else:
            threading.Thread(target=self.beat, args=(self.ended,), daemon=True).start()
        self.threads = set(threading.enumerate()) - before

    def pause(self) -> None:
        """Ends that thread."""
        self.ended.set()
        if self.status:
            self.status.stop()
        for thread in self.threads:
            thread.join(THREAD_END)

    @contextmanager
    def rest(self) -> Iterator[None]:
        """Within it no thread of this one runs."""
        self.pause()
        try:
            yield
        finally:
            self.begin()

    def __call__(self, line: str) -> None:
        self.end("[green]+[/]")
        goes_on()
        self.line, self.start, self.steps = line, time.perf_counter(), ""
        if self.status:
            self.status.update(escape(line))

    def advance(self, done: int, of: int) -> None:
        """A bar behind the current line."""
        goes_on()
        self.steps = f" {done}/{of}{left(time.perf_counter() - self.start, done, of)}"
        if self.status:
            full = round(24 * done / of)
            self.status.update(f"{escape(self.line)} [green]{'━' * full}[/][dim]{'━' * (24 - full)}[/]{self.steps}")

    def end(self, mark: str) -> None:
        if self.line:
            self.console.print(f"{mark} {escape(self.line)} [dim]{time.perf_counter() - self.start:.1f} s[/]")
        self.line = ""

    def beat(self, ended: threading.Event) -> None:
        """Says now and then that a long stage still goes on."""
        while not ended.wait(HEARTBEAT):
            seconds = time.perf_counter() - self.start
            if self.line and seconds >= HEARTBEAT:
                self.console.print(f"  {escape(self.line)}{self.steps} [dim]{seconds:.0f} s so far[/]")


def size(count: float) -> str:
    """Bytes in MB or GB, decimal."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def left(seconds: float, done: int, of: int) -> str:
    """', about 40 s left' of a stage whose steps take alike; nothing while there is too little to tell it from."""
    if not 0 < done < of or seconds < LEAST_TO_TELL:
        return ""
    more = seconds / done * (of - done)
    return f", about {more:.0f} s left" if more < 100 else f", about {more / 60:.0f} min left"


Cell = object  # its text as it is, whatever brackets are in it; a rich Text keeps its colours


def marked(text: str, style: str) -> Text:
    """A cell in a style."""
    return Text(text, style)


class Sheet:
    """A plain table; where the terminal is too narrow for its words, one line a cell instead.

    A column whose name starts with > is aligned to the right.
    """

    def __init__(self, columns: Sequence[str], rows: Iterable[Sequence[Cell]], title: str | None = None):
        self.columns, self.title = list(columns), title
        self.rows = [[cell if isinstance(cell, Text) else Text(str(cell)) for cell in row] for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.as_table() if self.narrowest() <= options.max_width else self.as_lines()

    def narrowest(self) -> int:
        """Columns of a terminal that hold the table with no word broken."""
        columns = zip(*([Text(name.lstrip(">")) for name in self.columns], *self.rows), strict=True)
        words = [
            max((cell_len(word) for cell in column for word in cell.plain.split()), default=0) for column in columns
        ]
        return sum(words) + 2 * (len(words) - 1)

    def as_table(self) -> Table:
        title = None if self.title is None else Text(self.title, "bold")
        made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for column in self.columns:
            made.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
        for row in self.rows:
            made.add_row(*row)
        return made

    def as_lines(self) -> Text:
        lines = [] if self.title is None else [Text(self.title, "bold")]
        for row in self.rows:
            named = zip(self.columns, row, strict=True)
            lines += [Text(f"{name.lstrip('>')}: ", "dim") + cell for name, cell in named if cell.plain] + [Text("")]
        return Text("\n").join(lines)


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], title: str | None = None) -> Sheet:
    """A table to print."""
    return Sheet(columns, rows, title)
