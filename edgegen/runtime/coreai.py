"""Runs a Core AI asset with Apple's own runtime, in a process of its own.

The runtime is young: whatever it does to its process, or takes of time and memory, ends as one error here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from edgegen.callbacks import ArrayFunction
from edgegen.errors import EdgegenError
from edgegen.process import of_this_process
from edgegen.runtime.frames import read_arrays, write_arrays

SHARE = 0.9  # of the machine's memory


@dataclass(frozen=True)
class Guard:
    """What the runtime may take before it is stopped."""

    load_seconds: float = 900.0
    run_seconds: float = 900.0
    bytes: int = 0  # of memory; 0: nearly all the machine has


def open_coreai(path: Path, guard: Guard = Guard()) -> ArrayFunction:
    """A function from inputs by name to outputs by name; the model is compiled and loaded once."""
    from edgegen.emit.coreai import require

    require()
    process = CoreAIProcess(path, guard)
    return process.run


class CoreAIProcess:
    """The process of one model; it ends with this object."""

    def __init__(self, path: Path, guard: Guard):
        self.path, self.guard = path, guard
        folder = tempfile.TemporaryDirectory(prefix="edgegen-coreai-")  # what the runtime compiles goes with it
        self.log = Path(folder.name) / "log"
        command = [sys.executable, "-m", "edgegen.runtime.coreai_server", str(path.absolute()), str(allowed(guard))]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment(folder.name)
            )
        self._end = weakref.finalize(self, stop, self.process, folder)
        self.answer("load", guard.load_seconds)

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of a feed; an EdgegenError where the process died or took too long."""
        if not self._end.alive:
            raise EdgegenError(f"Core AI's runtime for {self.path.name} has ended.", "Open the model again.")
        assert self.process.stdin is not None
        try:
            write_arrays(self.process.stdin, feed)
        except OSError:  # it died before it read; the answer says how
            pass
        return self.answer("run", self.guard.run_seconds)

    def answer(self, doing: str, seconds: float) -> dict[str, np.ndarray]:
        """The process's next answer, within so many seconds."""
        assert self.process.stdout is not None
        late = threading.Event()
        timer = threading.Timer(seconds, self.give_up, (late,))
        timer.start()
        try:
            arrays = read_arrays(self.process.stdout)
        finally:
            timer.cancel()
            timer.join()  # it holds this object
        if arrays is None:
            error = self.failure(doing, seconds if late.is_set() else None)
            self._end()
            raise error
        return arrays

    def give_up(self, late: threading.Event) -> None:
        """Ends the process, which took too long."""
        late.set()
        self.process.kill()

    def failure(self, doing: str, seconds: float | None) -> EdgegenError:
        """Why there is no answer: the time, the signal that ended the process, or the last line it wrote."""
        what = f"Core AI's runtime did not {doing} {self.path.name}"
        if seconds is not None:
            return EdgegenError(f"{what} within {seconds:g} s.", "Try a smaller resolution or tier.")
        code = self.process.wait()
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it wrote nothing"]
        reason = next((line for line in reversed(lines) if "rror" in line), lines[-1]).strip()[:300]
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return EdgegenError(f"{what}: {how}: {reason}.", "edgegen doctor shows what is installed.")


def allowed(guard: Guard) -> int:
    """Bytes of memory that the process may take."""
    return guard.bytes or int(SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def environment(folder: str) -> dict[str, str]:
    """This process's environment, with its temporary folder, and this edgegen first on the path."""
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH", ""))))
    return of_this_process() | {"TMPDIR": folder, "PYTHONPATH": path}


def stop(process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    """Ends a process and removes its folder."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        close(pipe)
    folder.cleanup()


def close(pipe: IO[bytes] | None) -> None:
    """Closes a pipe, whatever is left in it."""
    try:
        if pipe is not None:
            pipe.close()
    except OSError:
        pass
