"""This machine as a device: which back ends run here, and a runner that keeps an artifact in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgegen
from edgegen.backends.registry import find_backend
from edgegen.bench.child import timed
from edgegen.bench.measure import Opened, Settings
from edgegen.bench.parts import check_components, chosen_parts, is_drawn, is_picture
from edgegen.bench.records import usable_cores
from edgegen.bundle import Bundle
from edgegen.errors import EdgegenError, InputError, unknown
from edgegen.process import of_this_process

COMMAND = (sys.executable, "-P", "-m", "edgegen.bench.child")


def child_environment() -> dict[str, str]:
    """Ours, with the edgegen that runs here first in the path, wherever the command was typed."""
    path = [str(Path(edgegen.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return of_this_process() | {"PYTHONPATH": os.pathsep.join(filter(None, path))}


def runnable(bundle: Bundle) -> tuple[str, ...]:
    """The back ends of a bundle whose speed here means something: off macOS a Core ML program is evaluated, not run."""
    return tuple(name for name in bundle.backends if find_backend(name).runs_here())


def check_threads(settings: Settings) -> None:
    """Refuses more threads than cores: they would take turns."""
    if settings.threads > usable_cores():
        raise InputError(
            f"--threads is {settings.threads}; this process may use {usable_cores()} cores.",
            f"Give {usable_cores()} or fewer.",
        )


@dataclass(frozen=True)
class Candidate:
    """One component, or the whole picture, of a bundle on a back end."""

    bundle: Bundle
    backend: str
    component: str

    @property
    def label(self) -> str:
        m = self.bundle.manifest
        return f"{self.component} on {self.backend} ({m.model}/{m.tier})"


def candidates(bundle: Bundle, backends: tuple[str, ...], components: tuple[str, ...]) -> list[Candidate]:
    """What can be measured here, component after component; a back end or component that is not there is an error.

    The picture of another project's pipeline, which has tens of steps, is measured where it is asked for.
    """
    check_components(bundle, components)
    found = []
    for backend in checked_backends(bundle, backends):
        parts = chosen_parts(bundle, backend, components)
        found += [
            Candidate(bundle, backend, part)
            for part in parts
            if part in components or not (is_drawn(bundle) and is_picture(bundle, part))
        ]
    return found


def checked_backends(bundle: Bundle, asked: tuple[str, ...]) -> tuple[str, ...]:
    """The back ends asked for, or all that run here."""
    for backend in asked:
        if backend not in bundle.backends:
            raise unknown("back end of this bundle", backend, bundle.backends)
    here = runnable(bundle)
    cannot = [b for b in asked if b not in here]
    if cannot or not here:
        raise InputError(
            f"{titles(cannot or bundle.backends)} does not run on {sys.platform}: its evaluator's time says nothing "
            "about a device.",
            f"Measured here: {', '.join(here) or 'nothing in this bundle'}. On a device: --device.",
        )
    return asked or here


def titles(names: Iterable[str]) -> str:
    return " and ".join(find_backend(name).title for name in names)


class LocalRunner:
    """Something that runs in this process; `make` opens it and gives one run of it. For studies: memory is not told."""

    def __init__(self, make: Callable[[], Callable[[], Any]], clock: Callable[[], float] = time.perf_counter):
        self.make, self.clock = make, clock
        self.once: Callable[[], Any] | None = None

    def open(self) -> Opened:
        start = time.perf_counter()
        self.once = self.make()
        return Opened(1e3 * (time.perf_counter() - start), 0, 0)

    def run(self, count: int) -> tuple[list[float], int]:
        assert self.once is not None
        return timed(self.once, count, self.clock), 0

    def close(self) -> None:
        self.once = None


class ChildRunner:
    """A candidate in a process of its own, see child.py."""

    def __init__(self, candidate: Candidate, settings: Settings):
        self.candidate, self.settings = candidate, settings
        self.process: subprocess.Popen[str] | None = None
        self.errors = tempfile.TemporaryFile("w+", errors="replace")

    @property
    def what(self) -> dict[str, Any]:
        c = self.candidate
        return {
            "bundle": str(c.bundle.folder.absolute()),
            "backend": c.backend,
            "component": c.component,
            "threads": self.settings.threads,
        }

    def ask(self, **request: Any) -> dict[str, Any]:
        """The child's answer; one that failed or died is an error that says so."""
        if self.process is None:  # a session of its own: an interrupt reaches us, and we end it
            self.process = subprocess.Popen(
                COMMAND,
                text=True,
                env=child_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                start_new_session=True,
            )
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise EdgegenError(
                f"{self.candidate.label}: {self.last_words()}.",
                "A signal 9 is mostly the system running out of memory.",
            )
        answer = json.loads(line)
        if "error" in answer:
            kind = InputError if answer["exit_code"] == InputError.exit_code else EdgegenError
            raise kind(f"{self.candidate.label}: {answer['error']}", answer["remedy"])
        return answer

    def last_words(self) -> str:
        """How the child ended, with the last line it wrote."""
        assert self.process
        code = self.process.wait()
        self.errors.seek(0)
        lines = [line for line in self.errors.read().splitlines() if line.strip()]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"its process ended with {how}" + (f", saying: {lines[-1][:200]}" if lines else "")

    def open(self) -> Opened:
        answer = self.ask(do="open", **self.what)
        return Opened(answer["load_ms"], answer["base_bytes"], answer["loaded_bytes"])

    def run(self, count: int) -> tuple[list[float], int]:
        answer = self.ask(do="run", count=count)
        return answer["ms"], answer["peak_bytes"]

    def profile(self, count: int) -> list[dict]:
        """The operations of one artifact, see profile.py."""
        return self.ask(do="profile", count=count, **self.what)["operations"]

    def close(self) -> None:
        """Ends the child, at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe:
                    try:
                        pipe.close()
                    except BrokenPipeError:
                        pass
        self.errors.close()
