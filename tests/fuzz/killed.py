"""`python -m tests.fuzz.killed --moments 20 [--what export]`: SIGKILL at random moments of three commands, and SIGTERM.

export --overwrite over a good bundle: a whole bundle is there at every moment. export-resume (two tiers, chunks),
quantize and train: what is resumed ends in the bytes of a run that nobody killed. terminate: a quantize that is asked
to end says so in one line and exits with 143, unless it had not begun. No process is left. Exit code 1 if any of it
does not hold.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from PIL import Image

from edgegen.bundle import load_bundle
from edgegen.files import digest

from .fixtures import make_fixtures

ROOT = Path(__file__).parents[2]
PROGRAM = (
    "from edgegen.runs import run_state; run_state.SAVE_SECONDS = 0.5\n"  # so that a short run is saved midway
    "from edgegen.cli.main import main; main()"
)
TRIES = 40  # resumptions after which a run that is killed again and again is let end
RECIPE = """stage = "elastic"
[model]
hidden = 32
head_dim = 8
depths = [1, 2, 1]
blocks = 4
cross_kv_heads = 1
text_dim = 16
pooled_text = true
in_channels = 4
grid = [4, 4]
time_features = 16
widths = [0.5, 1.0]
[training]
steps = 200
batch = 4
warmup = 2
validate_every = 20
precision = "float32"
[data]
path = "pictures"
"""


def start(line: list[str], folder: Path) -> subprocess.Popen:
    """A command in a session of its own, so that whoever belongs to it can be found."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(folder / "log", "ab") as log:
        command = [sys.executable, "-c", PROGRAM, *line]
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def killed_at(line: list[str], folder: Path, seconds: float) -> bool:
    """Runs a command and kills it, and it alone, after a time; whether it was killed before it ended."""
    process = start(line, folder)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        wait_for_children(process.pid)
        return True
    assert process.returncode == 0, (folder / "log").read_text()[-2000:]
    return False


def wait_for_children(session: int, seconds: float = 10.0) -> None:
    """Returns when no process of a session is left; AssertionError if one stays."""
    end = time.monotonic() + seconds
    while left := members(session):
        assert time.monotonic() < end, f"processes {left} outlive their parent"
        time.sleep(0.1)


def members(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z" and int(fields[3]) == session:
            found.append(int(entry.name))
    return found


def timed(line: list[str], folder: Path) -> float:
    """Seconds of a run that nobody kills."""
    begin = time.monotonic()
    process = start(line, folder)
    assert process.wait() == 0, (folder / "log").read_text()[-2000:]
    return time.monotonic() - begin


def kill_export(rng: Random, fixtures: Path, folder: Path, moments: int) -> str:
    line = ["export", "--tier", str(fixtures / "tier.toml"), "--checkpoint", str(fixtures / "checkpoint")]
    line += ["--backend", "onnx", "--out", "o"]
    length = timed(line, folder)
    for _ in range(moments):
        killed_at([*line, "--overwrite"], folder, rng.uniform(0, 1.1 * length))
        bundle = folder / "o"
        if not bundle.exists():  # between the two renames: the old one is aside, and put back by the next run
            (bundle,) = folder.glob(".o.replaced-*")
        load_bundle(bundle)
    timed([*line, "--overwrite"], folder)
    load_bundle(folder / "o")
    left = [name for name in os.listdir(folder) if name.startswith(".o")]
    assert not left, f"{left} is left"
    return f"the bundle was whole at {moments} moments"


def resumed(
    rng: Random, line: list[str], again: str, folder: Path, moments: int, out: str, name: str, saved: str
) -> str:
    """Kills a run at so many moments, resumes it each time, and compares its end with that of an unbroken one.

    `saved` is a pattern of what is there while a run can be resumed from midway, which some moments must find.
    """
    whole, broken = folder / "whole", folder / "broken"
    for place in (whole, broken):
        place.mkdir()
        for entry in folder.glob("*"):
            if entry.name in ("pictures", "r.toml"):
                (place / entry.name).symlink_to(entry)
    length = timed(line, whole)
    count = tries = midway = ends = 0
    while count < moments and tries < 2 * moments + TRIES:
        tries += 1
        if killed_at([*line, *([again] if tries > 1 and again else [])], broken, rng.uniform(0, 1.1 * length)):
            count += 1
            midway += any(broken.glob(saved))
        else:
            compare(whole, broken, name)
            ends += 1
            shutil.rmtree(broken / out)
    timed([*line, *([again] if again else [])], broken)
    compare(whole, broken, name)
    assert midway, "no moment fell where there was something to resume from"
    return f"killed at {count} moments, {midway} of them with a state to go on from; {ends + 1} ends of the same bytes"


def compare(whole: Path, broken: Path, name: str) -> None:
    a, b = (digest(folder / name) for folder in (whole, broken))
    assert a == b, f"{name} is {b[0][:12]}, unbroken it is {a[0][:12]}"


def quantizing(fixtures: Path) -> list[str]:
    line = ["quantize", "--checkpoint", str(fixtures / "checkpoint"), "--bits", "4.5", "--tune-steps", "60"]
    return [*line, "--out", "q"]


def kill_resumed_export(rng: Random, fixtures: Path, folder: Path, moments: int) -> str:
    """Two tiers, and a transformer in two programs."""
    wide = (fixtures / "tier.toml").read_text().replace("tiny-tier", "wide").replace("width = 0.5", "width = 1.0")
    (folder / "wide.toml").write_text(wide)
    line = ["export", "--tier", f"{fixtures / 'tier.toml'},{folder / 'wide.toml'}", "--chunks", "2", "--out", "o"]
    line += ["--checkpoint", str(fixtures / "checkpoint"), "--backend", "onnx,coreml"]
    return resumed(rng, line, "--resume", folder, moments, "o", "o", ".o.partial-*/.finished/*-*.json")


def kill_quantize(rng: Random, fixtures: Path, folder: Path, moments: int) -> str:
    return resumed(rng, quantizing(fixtures), "--resume", folder, moments, "q", "q", ".q.unfinished/*")


def terminate(rng: Random, fixtures: Path, folder: Path, moments: int) -> str:
    """Asks a quantize to end at so many moments."""
    line, asked, told = quantizing(fixtures), 0, 0
    length = timed(line, folder)
    while asked < moments:
        shutil.rmtree(folder / "q", ignore_errors=True)
        (folder / "log").write_text("")
        process = start([*line, "--resume"], folder)
        try:
            process.wait(rng.uniform(0, length))
            continue  # it had less to do than the first
        except subprocess.TimeoutExpired:
            process.terminate()
        begin = time.monotonic()
        code, log = process.wait(30), (folder / "log").read_text()
        wait_for_children(process.pid)
        errors = [row for row in log.splitlines() if row.startswith("error: ")]
        assert code in (143, -signal.SIGTERM), f"exit code {code}: {log[-2000:]}"  # the latter before it had a handler
        assert "Traceback" not in log and len(errors) == (code == 143), log[-2000:]
        told += len(errors)
        assert time.monotonic() - begin < 30
        asked += 1
    return f"terminated at {asked} moments, {told} of which had begun to work"


def kill_train(rng: Random, fixtures: Path, folder: Path, moments: int) -> str:
    (folder / "pictures").mkdir()
    for number in range(12):
        colour = tuple(rng.randrange(256) for _ in range(3))
        Image.new("RGB", (64, 64), colour).save(folder / "pictures" / f"{number}.png")
        (folder / "pictures" / f"{number}.txt").write_text(f"a box {number}")
    (folder / "r.toml").write_text(RECIPE + f'encoders = "{fixtures / "checkpoint"}"\n')
    state = "runs/elastic/state.safetensors"
    return resumed(rng, ["train", "r.toml", "--runs", "runs"], "", folder, moments, "runs", state, state)


WHAT: dict[str, Callable[[Random, Path, Path, int], str]] = {
    "export": kill_export,
    "export-resume": kill_resumed_export,
    "quantize": kill_quantize,
    "train": kill_train,
    "terminate": terminate,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.killed", description="Signals at random moments.")
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--what", choices=sorted(WHAT), action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fixtures", type=Path, help="a folder to keep the checkpoint in")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    wrong = 0
    with tempfile.TemporaryDirectory() as kept:
        fixtures = make_fixtures((options.fixtures or Path(kept)).absolute(), ("onnx",))
        for name in options.what or WHAT:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    print(
                        f"{name}: {WHAT[name](Random(options.seed), fixtures, Path(folder), options.moments)}",
                        flush=True,
                    )
                except AssertionError as error:
                    print(f"{name}: {error}", flush=True)
                    wrong += 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
