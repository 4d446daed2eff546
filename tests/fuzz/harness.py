"""Runs a command line on a mutated input in a process of its own, and judges what came of it.

A command must end within `LIMIT` seconds with exit code 0, 1 or 2; if it refuses, with one line of at most 300
characters; and must leave every file that was there as it was, and make none but where it may. It has no network.
"""

from __future__ import annotations

import errno
import faulthandler
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

LIMIT = 60.0  # seconds
LONGEST = 300  # characters of the line
MEMORY = 8 * 2**30  # bytes of a child
FILE = 2**30  # bytes of a file that a child may write


@dataclass(frozen=True)
class Case:
    """A command line, or a function of the case's folder, and where below it new files may appear."""

    kind: str
    arguments: Sequence[str] = ()
    work: Callable[[Path], object] | None = None
    may_make: tuple[str, ...] = ()  # regular expressions of paths in the case's folder
    may_change: tuple[str, ...] = ()
    must_make: tuple[str, ...] = ()  # paths
    code: int | None = None  # the exit code it must end with, unless what it prints finds no room
    streams: dict[int, str] = field(default_factory=dict)  # closed, full or gone: what has become of 0, 1 and 2


@dataclass
class Findings:
    """What was run and what was wrong."""

    counts: Counter = field(default_factory=Counter)
    seconds: Counter = field(default_factory=Counter)
    codes: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0


def contents(folder: Path) -> dict[str, str]:
    """What every entry below a folder is; links are not followed."""
    found = {}
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(root, name)
            key = os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace")
            if path.is_symlink():
                found[key] = f"link {os.readlink(path)!r}"
            elif path.is_file():
                found[key] = hashlib.sha256(path.read_bytes()).hexdigest()
            elif name in names:
                found[key] = "special"
    return found


def run_case(case: Case, folder: Path) -> tuple[int | None, str, str, float]:
    """Exit code (None: it ran past the limit; negative: a signal), stdout, stderr and seconds."""
    streams = [tempfile.TemporaryFile(), tempfile.TemporaryFile()]
    start, child = time.monotonic(), os.fork()
    if child == 0:
        child_(case, folder, streams)
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() - start > LIMIT:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.002)
    texts = []
    for stream in streams:
        stream.seek(0)
        texts.append(stream.read().decode("utf-8", "backslashreplace"))
        stream.close()
    code = os.waitstatus_to_exitcode(status) if pid else None
    return code, texts[0], texts[1], time.monotonic() - start


def child_(case: Case, folder: Path, streams: list) -> None:
    """The child: never returns."""
    try:
        os.setsid()
        faulthandler.disable()  # pytest's: a crash is what some cases are about
        os.chdir(folder)
        os.environ["HOME"] = os.environ["PATH"] = str(folder / "home")
        for number, stream in zip((1, 2), streams, strict=True):
            os.dup2(stream.fileno(), number)
        for number, what in case.streams.items():
            spoil_stream_(number, what)
        sys.stdout, sys.stderr = opened(1, "strict"), opened(2, "backslashreplace")
        socket.socket.connect = no_network  # type: ignore[method-assign]  # nor does npm, which is in no PATH
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))
        code = work_(case, folder)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 70
    os._exit(code if flushed() else 120)


def no_network(*address: Any) -> None:
    raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))


def spoil_stream_(number: int, what: str) -> None:
    """Closes a standard stream, or makes it one of a full disk, or a pipe whose other end has gone."""
    if what == "closed":
        os.close(number)
    elif what == "full":
        full = os.open("/dev/full", os.O_RDWR)
        os.dup2(full, number)
        os.close(full)
    else:
        reading, writing = os.pipe()
        os.dup2(writing if number else reading, number)
        os.close(reading)
        os.close(writing)


def opened(number: int, errors: str) -> Any:
    """A standard stream as Python makes it when it starts: None if it is closed."""
    try:
        return os.fdopen(number, "w", encoding="utf-8", errors=errors, closefd=False)
    except OSError:
        return None


def flushed() -> bool:
    """Whether what was printed could be written; Python ends with exit code 120 if not."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:
        return False
    return True


def work_(case: Case, folder: Path) -> int:
    """Runs a function as a command would be, or the command itself."""
    from edgegen.cli.main import main
    from edgegen.failures import expected
    from edgegen.show import print_error

    if case.work is None:
        sys.argv = ["edgegen", *case.arguments]
        main()
        return 0
    try:
        case.work(folder)
        return 0
    except Exception as error:
        found = expected(error)
        if found is None:
            raise
        print_error(found.message, found.remedy, found.exit_code, False)
        return found.exit_code


def judge(case: Case, ended: tuple[int | None, str, str, float], before: dict, after: dict) -> list[str]:
    """What is wrong with how a case ended."""
    code, out, err, _ = ended
    if code is None:
        return ["ran past the limit"]
    if code not in (0, 1, 2):
        return [f"exit code {code}: {(err.strip().splitlines() or [''])[-1][:200]}"]
    wrong = judge_words(case, code, out, err)
    if case.code not in (None, code) and case.streams.get(1) != "full":
        wrong.append(f"exit code {code}, not {case.code}")
    changed = [name for name in before if after.get(name) != before[name] and not matches(name, case.may_change)]
    made = [name for name in after if name not in before and not matches(name, (*case.may_make, *case.may_change))]
    wrong += [f"lost or changed {name}" for name in changed[:2]] + [f"wrote {name}" for name in made[:2]]
    return wrong + [f"did not make {name}" for name in case.must_make if name not in after]


def judge_words(case: Case, code: int, out: str, err: str) -> list[str]:
    """What is wrong with what was printed, as far as it could be."""
    wrong = []
    errors = [line.removeprefix("error: ") for line in err.splitlines() if line.startswith("error: ")]
    if "Traceback (most recent call last)" in err:
        wrong.append(f"a traceback: {err.strip().splitlines()[-1][:200]}")
    told = len(errors) == 1 and len(errors[0]) <= LONGEST
    if code and 2 not in case.streams and not told and not (code == 1 and not errors and says_nothing_fits(case, out)):
        wrong.append(f"exit code {code} with {len(errors)} lines of {[len(line) for line in errors]} characters")
    if code and "--json" in case.arguments and 1 not in case.streams and not is_json(out):
        wrong.append("stdout is not one JSON document")
    return wrong


def says_nothing_fits(case: Case, out: str) -> bool:
    """Whether this is the answer of recommend, no error, that no way to run the model fits."""
    if "recommend" not in case.arguments:
        return False
    if "--json" not in case.arguments:
        return "Nothing fits." in out.splitlines()
    return is_json(out) and json.loads(out)["fitting"] == [] and len(json.loads(out)["others"]) > 0


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def is_json(text: str) -> bool:
    try:
        json.loads(text)
        return True
    except ValueError:
        return False


Kind = Callable[[Random, Path, Path], Case]  # random numbers, fixtures, the case's folder


def fuzz(
    kinds: dict[str, Kind],
    fixtures: Path,
    seed: int,
    seconds: float,
    most: int = 10**9,
    tell: Callable[[str], None] = print,
) -> Findings:
    """Makes and runs cases of all kinds in turn until the time or their number is up; each follows from its number."""
    findings, end, number = Findings(), time.monotonic() + seconds, 0
    names = list(kinds)
    while time.monotonic() < end and number < most:
        name = names[number % len(names)]
        run_one(findings, kinds[name], name, fixtures, seed, number, tell)
        number += 1
        if number % 100 == 0:
            print(f"{number} inputs, {len(findings.wrong)} wrong so far", file=sys.stderr, flush=True)
    return findings


def run_one(
    findings: Findings, kind: Kind, name: str, fixtures: Path, seed: int, number: int, tell: Callable[[str], None]
) -> None:
    """One case in a folder of its own, which is kept where something is wrong with `EDGEGEN_KEEP` set."""
    folder = Path(tempfile.mkdtemp(prefix="edgegen-fuzz-"))
    keep = False
    try:
        (folder / "home").mkdir()
        (folder / "home" / "thesis.txt").write_text("years of work")
        case = kind(Random(f"{seed} {name} {number}"), fixtures, folder)
        before = contents(folder)
        ended = run_case(case, folder)
        wrong = judge(case, ended, before, contents(folder))
        findings.counts[name] += 1
        findings.seconds[name] += ended[3]
        findings.codes[ended[0]] += 1
        findings.slowest = max(findings.slowest, ended[3])
        for what in wrong:
            line = f"{name} {number} (seed {seed}): {what}; {[a[:60] for a in case.arguments]}"
            findings.wrong.append(line)
            tell(line)
        keep = bool(wrong) and "EDGEGEN_KEEP" in os.environ
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
