"""Processes that open what may come from anywhere: they end with their parent, and a crash of one is an error of one
line.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
PARENT = "EDGEGEN_PARENT"  # environment: the process that a child ends with
RESTING: list[Callable[[], AbstractContextManager[None]]] = []  # each stops a thread that can rest for a moment


def of_this_process() -> dict[str, str]:
    """The environment of a child that is to end with this process."""
    return os.environ | {PARENT: str(os.getpid())}


def end_with_parent_(parent: int | None = None) -> None:
    """Has the system end this process when its parent ends, however it ends; Linux alone can. The parent is the one
    that `of_this_process` told of, if none is given; a process that was started otherwise goes on.
    """
    told = os.environ.get(PARENT, "")
    parent = parent or (int(told) if told.isdigit() else None)
    if sys.platform != "linux" or parent is None:
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


@contextmanager
def resting() -> Iterator[None]:
    """Within it no thread runs that only shows progress, so that this process can be copied: of one with threads, a
    lock that one of them holds would never open in the copy.
    """
    with ExitStack() as stack:
        for rest in RESTING:
            stack.enter_context(rest())
        yield


def limit_memory_() -> None:
    """Refuses this process more memory than there is, and makes it the first to go when memory runs out."""
    with suppress(OSError, ValueError, ImportError):
        import resource

        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        if most == resource.RLIM_INFINITY or most > total:
            resource.setrlimit(resource.RLIMIT_DATA, (total, most))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def apart(limit_s: float | None = None, still_s: float | None = None) -> int | None:
    """Goes on in a child process, and waits for it here: None in the child; here, how it ended, as `crash` tells.

    The child may take `limit_s` seconds in all, and `still_s` without a sign of progress (`goes_on`). Only to be called
    before any thread is started. Where processes cannot be copied it goes on in this one, without limits.
    """
    if sys.platform != "linux" or os.environ.get("EDGEGEN_DEBUG"):
        return None
    sys.stdout.flush()
    sys.stderr.flush()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        end_with_parent_(parent)
        limit_memory_()
        if still_s is not None:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, even inside a runtime
            signal.setitimer(signal.ITIMER_REAL, still_s, still_s)
        return None
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, passed_on(child))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the child too
    if limit_s is not None:
        signal.signal(signal.SIGALRM, lambda number, frame: os.kill(child, signal.SIGXCPU))
        signal.setitimer(signal.ITIMER_REAL, limit_s)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def goes_on() -> None:
    """A sign of progress: the time without one, where `apart` limits it, starts anew."""
    if sys.platform != "linux" or signal.getsignal(signal.SIGALRM) != signal.SIG_DFL:  # a timer of someone else's
        return
    _, still_s = signal.getitimer(signal.ITIMER_REAL)
    if still_s:
        signal.setitimer(signal.ITIMER_REAL, still_s, still_s)


def passed_on(child: int) -> Callable[[int, object], None]:
    """A handler that gives a signal to a child."""

    def handle(number: int, frame: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    return handle


def crash(code: int) -> tuple[str, str] | None:
    """What to say of a child's exit code: message and remedy of one that a signal ended; None of any other."""
    if code >= 0 or -code in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        return None
    name = signal.Signals(-code).name
    if -code == signal.SIGKILL:
        return "the process was killed (SIGKILL).", "This is mostly the system running out of memory."
    if -code == signal.SIGXCPU:
        return "reading the artifacts takes longer than any of edgegen's.", "Do not use this bundle."
    if -code == signal.SIGALRM:
        return (
            "the artifacts ran for an hour without a sign of progress.",
            "Do not use this bundle, or a narrower tier.",
        )
    return f"an artifact crashed what runs or reads it ({name}).", "Export the bundle again."
