"""A short run of the fuzzer (`python -m tests.fuzz`), and that it would see what it looks for."""

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from fuzz.harness import Case, contents, judge, run_case
from fuzz.kinds import KINDS
from fuzz.mutate import changed, flipped, text_of

ROOT = Path(__file__).parents[1]
COUNT = 2 * len(KINDS)


def test_a_short_run_finds_nothing_wrong(tmp_path):
    """In a process of its own, without threads: children are copies of it."""
    options = ["--seconds", "120", "--most", str(COUNT), "--seed", "1", "--backends", "onnx"]
    done = subprocess.run([sys.executable, "-m", "tests.fuzz", *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and f"{COUNT} inputs, 0 wrong" in done.stdout, done.stdout + done.stderr


def traceback(folder):
    raise KeyError("x")


def long_line(folder):
    print("error: " + "x" * 301, file=sys.stderr)
    raise SystemExit(2)


def two_lines(folder):
    print("error: one\nerror: two", file=sys.stderr)
    raise SystemExit(2)


def deletes(folder):
    (folder / "home" / "thesis.txt").unlink()


def writes(folder):
    (folder / "home" / "new.txt").touch()


def crashes(folder):
    import ctypes

    ctypes.string_at(0)


@pytest.mark.parametrize("work, told", [
    (traceback, "exit code 70"), (long_line, "1 lines of [301]"), (two_lines, "2 lines"), (crashes, "exit code -11"),
    (deletes, "lost or changed home/thesis.txt"), (writes, "wrote home/new.txt"), (lambda folder: None, ""),
])  # fmt: skip
def test_the_judge_sees_what_is_wrong(tmp_path, work, told):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    case, before = Case("x", work=work), contents(tmp_path)
    wrong = judge(case, run_case(case, tmp_path), before, contents(tmp_path))
    assert (not wrong) if not told else any(told in line for line in wrong), wrong


def no_answer(folder):
    raise SystemExit(1)


def answer(folder):
    print("Nothing fits.")
    raise SystemExit(1)


def prints(folder):
    print("x" * 100_000, flush=True)


def connects(folder):
    import socket

    socket.create_connection(("127.0.0.1", 9))


@pytest.mark.parametrize("case, told", [
    (Case("x", ["recommend"], no_answer), "0 lines"), (Case("x", ["recommend"], answer), ""),
    (Case("x", ["inspect"], answer), "0 lines"), (Case("x", [], prints, must_make=("p.png",)), "did not make p.png"),
    (Case("x", [], answer, code=0, streams={2: "closed"}), "exit code 1, not 0"),
    (Case("x", [], connects, code=2), ""),  # refused by the network that is not there
    (Case("x", [], prints, code=0, streams={1: "full"}), ""),  # refused in one line, and excused
])  # fmt: skip
def test_the_judge_knows_what_a_case_must_do(tmp_path, case, told):
    before = contents(tmp_path)
    (tmp_path / "home").mkdir()
    wrong = judge(case, run_case(case, tmp_path), before, contents(tmp_path))
    assert (not wrong) if not told else any(told in line for line in wrong), wrong


def test_a_seed_gives_the_same_inputs_and_they_differ():
    value = {"name": "a", "list": [1, 2, {"x": 0.5}], "flag": True}
    for make in (lambda rng: text_of(rng, value), lambda rng: flipped(rng, b"some bytes" * 9)):
        assert [make(Random(i)) for i in range(9)] == [make(Random(i)) for i in range(9)]
        assert len({make(Random(i)) for i in range(60)}) > 20
    assert sum(changed(Random(i), value) != value for i in range(100)) > 90
