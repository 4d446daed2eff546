"""How far a long run is: a bar with the time left where stderr is a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class StepReport:
    """Counts the steps of a run and shows lines beside them; silent where `shown` is false."""

    def __init__(self, title: str, shown: bool = True):
        self.title, self.shown, self.bar = title, shown, shown and sys.stderr.isatty()
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.start, self.end, self.done, self.started_at = 0, 0, 0, time.monotonic()

    def track(self, start: int, end: int) -> Iterator[int]:
        """Yields the steps from `start` to `end`, showing a bar where there is a terminal."""
        self.start, self.end, self.done, self.started_at = start, end, start, time.monotonic()
        if not self.bar:
            yield from self._count()
            return
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(self.title, total=end, completed=start)
            for step in self._count():
                progress.update(task, completed=step)
                yield step

    def line(self, text: str) -> None:
        """One line; where there is no bar it ends in the time left."""
        if not self.shown:
            return
        left = "" if self.bar or self.done == self.start else f"  left {self.time_left()}"
        self.console.print(f"{self.title}  {text}{left}", markup=False)

    def time_left(self) -> str:
        """Hours, minutes and seconds at the mean speed of this process so far."""
        speed = (time.monotonic() - self.started_at) / max(1, self.done - self.start)
        seconds = round(speed * (self.end - self.done))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def _count(self) -> Iterator[int]:
        for step in range(self.start, self.end):
            self.done = step + 1
            yield step
