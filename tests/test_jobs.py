"""Two processes that share jobs: every job once, in whichever process; an error or a death of either is told."""

import functools
import io
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console

from edgegen import show
from edgegen.errors import EdgegenError, InputError
from edgegen.jobs import can_share, share

ALONE = "EDGEGEN_TEST_ALONE"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be copied here")


def nothing() -> None:
    pass


def test_results_come_in_order_and_both_processes_work():
    def work(job: int) -> list[int]:
        time.sleep(0.02)
        return [job * job, os.getpid()]

    results = share(20, work, nothing, second=True)
    assert [result[0] for result in results] == [job * job for job in range(20)]
    assert len({result[1] for result in results}) == 2


def test_alone_it_does_what_comes_first_and_then_all_jobs():
    done: list[object] = []
    results = share(3, lambda job: done.append(job) or job, lambda: done.append("first"), second=False)
    assert results == [0, 1, 2] and done == ["first", 0, 1, 2]


@pytest.mark.parametrize("kind", [InputError, EdgegenError])
def test_an_error_of_the_second_process_is_raised_here(kind):
    here = os.getpid()

    def work(job: int) -> int:
        if os.getpid() != here:
            raise kind("no.", "Do better.")
        return job

    with pytest.raises(kind, match="Do better") as caught:
        share(5, work, lambda: time.sleep(0.2), second=True)
    assert type(caught.value) is kind


def test_a_full_disk_there_is_a_full_disk_here():
    here = os.getpid()

    def work(job: int) -> int:
        if os.getpid() != here:
            raise OSError(28, "No space left on device")
        return job

    with pytest.raises(OSError, match="No space") as caught:
        share(5, work, lambda: time.sleep(0.2), second=True)
    assert caught.value.errno == 28


def test_a_second_process_that_is_killed_is_no_success():
    here = os.getpid()

    def work(job: int) -> int:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return job

    with pytest.raises(EdgegenError, match="second process"):
        share(5, work, lambda: time.sleep(0.2), second=True)


def alone(test):
    """Runs a test that counts threads or children in a process of its own: other tests leave some in this one."""

    @functools.wraps(test)
    def run(*fixtures, **named):
        if os.environ.get(ALONE):
            return test(*fixtures, **named)
        line = [sys.executable, "-m", "pytest", "-q", "-n", "0", f"{__file__}::{test.__name__}"]
        ended = subprocess.run(line, env=os.environ | {ALONE: "1"}, capture_output=True, text=True)
        assert ended.returncode == 0 and "1 passed" in ended.stdout, ended.stdout[-4000:]

    return run


@alone
def test_an_error_here_ends_the_second_process():
    def first() -> None:
        raise InputError("no.")

    start = time.perf_counter()
    with pytest.raises(InputError):
        share(1, lambda job: time.sleep(30), first, second=True)
    assert time.perf_counter() - start < 10
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@alone
def test_what_shows_progress_rests_while_the_process_is_copied(monkeypatch, capfd):
    monkeypatch.setattr(show, "HEARTBEAT", 0.05)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    copied, fork = [], os.fork
    monkeypatch.setattr(os, "fork", lambda: copied.append(threading.active_count()) or fork())
    with show.Progress() as progress:
        progress("long work")
        assert threading.active_count() == 2 and can_share()
        share(1, lambda job: job, lambda: time.sleep(0.3), second=True)
    assert copied == [1]
    assert "so far" in capfd.readouterr().err


@alone
def test_a_spinner_rests_too(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    with show.Progress(Console(file=io.StringIO(), force_terminal=True)):
        assert threading.active_count() == 2 and can_share() and threading.active_count() == 2
    assert threading.active_count() == 1


def test_a_process_with_other_threads_is_not_copied():
    ended = threading.Event()
    other = threading.Thread(target=ended.wait)
    other.start()
    try:
        with show.Progress():
            assert not can_share()
    finally:
        ended.set()
        other.join()
