"""Jobs that two processes share: each takes the next one when it is free."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from edgegen.errors import EdgegenError, InputError
from edgegen.process import end_with_parent_, resting

MOST = 255  # jobs: each is a byte in a pipe
HELD = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
Work = Callable[[int], Any]  # the number of a job to a result that JSON can hold


def share(count: int, work: Work, first: Callable[[], None], second: bool) -> list[Any]:
    """Results of jobs 0 to `count` - 1, which are begun in order. This process does `first` before it takes any; with
    `second` a copy of it starts on them at once. The first error of either ends both.
    """
    assert count <= MOST
    queue = filled(count)
    helper = Helper()
    try:
        if second:
            helper.start(queue, work)
        first()
        results = {job: work(job) for job in taken(queue)}
        if second:
            results |= helper.results()
    finally:
        helper.end()
        os.close(queue)
    return [results[job] for job in range(count)]


def filled(count: int) -> int:
    """The reading end of a pipe with a byte for each job."""
    reading, writing = os.pipe()
    os.write(writing, bytes(range(count)))
    os.close(writing)
    return reading


def taken(queue: int) -> Iterator[int]:
    """Jobs as they are taken from a queue, until none is left."""
    while job := os.read(queue, 1):
        yield job[0]


class Helper:
    """A copy of this process that takes jobs and tells what came of them."""

    child = 0
    reading = -1

    def start(self, queue: int, work: Work) -> None:
        """Copies the process. Signals wait until it is known whom they end."""
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        with resting(), signals_held():
            self.reading, writing = os.pipe()
            self.child = os.fork()
            if self.child == 0:
                end_with_parent_(parent)
                self.serve(queue, work, writing)
            os.close(writing)

    def serve(self, queue: int, work: Work, writing: int) -> None:
        """What the copy does; it never returns."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both: the parent ends this one
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
        code = 0
        with open(writing, "w", encoding="utf-8") as results:
            try:
                for job in taken(queue):
                    results.write(json.dumps({"job": job, "result": work(job)}) + "\n")
                    results.flush()
            except BaseException as error:
                results.write(json.dumps({"error": told(error)}) + "\n")
                code = 1
        os._exit(code)

    def results(self) -> dict[int, Any]:
        """Results by job, once the copy has ended; what it failed of is raised here."""
        with open(self.reading, encoding="utf-8", closefd=False) as lines:
            documents = [json.loads(line) for line in lines]
        for document in documents:
            if "error" in document:
                raise failure(document["error"])
        code = os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])
        self.child = 0
        if code:
            raise EdgegenError(
                f"the second process ended with {code}.", "This is mostly the system running out of memory."
            )
        return {document["job"]: document["result"] for document in documents}

    def end(self) -> None:
        """Ends the copy, if it still runs."""
        if self.reading >= 0:
            os.close(self.reading)
        if self.child:
            with suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGKILL)
            os.waitpid(self.child, 0)


@contextmanager
def signals_held() -> Iterator[None]:
    """Within it the signals that ask this process to end wait."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def told(error: BaseException) -> dict:
    """An error as JSON."""
    if isinstance(error, EdgegenError):
        return {"message": error.message, "remedy": error.remedy, "input": isinstance(error, InputError)}
    number = error.errno if isinstance(error, OSError) else None
    return {"message": f"{type(error).__name__}: {error}", "number": number}


def failure(document: dict) -> Exception:
    """The error that `told` wrote."""
    if document.get("number") is not None:
        return OSError(document["number"], document["message"])
    if "remedy" not in document:
        return RuntimeError(document["message"])
    kind = InputError if document["input"] else EdgegenError
    return kind(document["message"], document["remedy"])


def can_share() -> bool:
    """Whether a process can be copied here, and a second core would run the copy; one with threads that cannot rest, as
    a notebook's has, must not be.
    """
    with resting():
        alone = threading.active_count() == 1 and not os.environ.get("EDGEGEN_DEBUG")
    return sys.platform == "linux" and alone and len(os.sched_getaffinity(0)) > 1
