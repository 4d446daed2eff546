"""An interrupted export goes on: what it finished is kept and not made again, and the end is the same bytes."""

import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import time

import pytest
from tiny import tiny_checkpoint, tiny_tier

from edgegen import export as exporting
from edgegen.bundle import load_bundle
from edgegen.cli import run
from edgegen.errors import InputError
from edgegen.files import digest
from edgegen.folders import left_bytes, new_folder
from edgegen.journal import NOTES, has_notes
from edgegen.model.checkpoint import load_checkpoint
from edgegen.plan import make_plan
from edgegen.target import load_tier


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A folder with a checkpoint, a tier, and the bundle of an export that nothing interrupted."""
    folder = tmp_path_factory.mktemp("unbroken")
    tiny_checkpoint(folder / "checkpoint")
    tiny_tier(folder)
    assert run(line(folder, folder / "whole")) == 0
    return folder


def line(folder, out, *more):
    tier = folder / "tiny-tier.toml"
    return ["export", "--checkpoint", str(folder / "checkpoint"), "--tier", str(tier), "--backend", "onnx",
            "--out", str(out), *more]  # fmt: skip


def unfinished(out):
    """The folder that an interrupted export of `out` has left, or none."""
    return next(out.parent.glob(f".{out.name}.partial-*"), None)


@pytest.fixture(scope="module")
def stopped(unbroken):
    """What an export leaves that ended when its last artifact was due."""
    emit, emitted, out = exporting.emit, [], unbroken / "stopped" / "b"

    def fail(plan, networks, part, *rest):
        if len(emitted) == 2:
            raise KeyboardInterrupt
        emitted.append(part)
        return emit(plan, networks, part, *rest)

    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stderr(io.StringIO()) as told:
        patched.setattr(exporting, "fits_two", lambda plan: False)
        patched.setattr(exporting, "emit", fail)
        assert run(line(unbroken, out)) == 130
    assert "interrupted. What was finished is kept: the same command with --resume goes on." in told.getvalue()
    assert not out.exists() and has_notes(unfinished(out))
    return out.parent


@pytest.fixture
def interrupted(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    return tmp_path / "b"


def test_the_resumed_bundle_has_the_bytes_of_an_unbroken_one(unbroken, interrupted, monkeypatch, capfd):
    emit, emitted = exporting.emit, []
    monkeypatch.setattr(exporting, "emit", lambda *what: emitted.append(what[2]) or emit(*what))
    assert left_bytes(interrupted) > 0
    assert run(line(unbroken, interrupted, "--resume")) == 0
    assert len(emitted) == 1
    assert "is there" in capfd.readouterr().err
    assert digest(interrupted) == digest(unbroken / "whole")
    assert os.listdir(interrupted.parent) == ["b"]
    load_bundle(interrupted)


def test_what_is_finished_is_told_again_and_not_made_again(unbroken, tmp_path, capfd, monkeypatch):
    shutil.copytree(unbroken / "whole", tmp_path / "b")
    monkeypatch.setattr(exporting, "emit", None)
    assert run(line(unbroken, tmp_path / "b", "--resume")) == 0
    assert "It was finished already" in capfd.readouterr().out
    assert run(line(unbroken, tmp_path / "b", "--resume", "--json")) == 0
    told = json.loads(capfd.readouterr().out)
    assert len(told["components"]) == 3 and len(told["verify"]) == 4
    assert run(line(unbroken, tmp_path / "b", "--resume", "--resolution", "96x64")) == 2
    assert "is not empty" in capfd.readouterr().err
    assert digest(tmp_path / "b") == digest(unbroken / "whole")


def test_without_resume_it_starts_again(unbroken, interrupted):
    assert run(line(unbroken, interrupted)) == 0
    assert os.listdir(interrupted.parent) == ["b"]
    assert digest(interrupted) == digest(unbroken / "whole")


def test_an_artifact_that_is_no_longer_what_was_noted_is_made_again(unbroken, interrupted):
    artifact = next(unfinished(interrupted).glob("*/transformer.*"))
    file = artifact if artifact.is_file() else next(artifact.rglob("weight.bin"))
    file.write_bytes(file.read_bytes()[:-1])
    (unfinished(interrupted) / "onnx").mkdir(exist_ok=True)
    (unfinished(interrupted) / "onnx" / "half").write_bytes(b"x")
    assert run(line(unbroken, interrupted, "--resume")) == 0
    assert digest(interrupted) == digest(unbroken / "whole")


def test_other_settings_are_refused_and_nothing_is_lost(unbroken, interrupted, capfd):
    before = digest(unfinished(interrupted))[0]
    assert run(line(unbroken, interrupted, "--resume", "--resolution", "96x64")) == 2
    assert "started with another resolution" in capfd.readouterr().err
    left = unfinished(interrupted)
    assert digest(left)[0] == before


@pytest.mark.parametrize("notes", ["", "[]", "{}", "nonsense"])
def test_spoilt_notes_are_one_line(unbroken, interrupted, capfd, notes):
    note = next((unfinished(interrupted) / NOTES).glob("*-*.json"))
    note.write_text(notes)
    assert run(line(unbroken, interrupted, "--resume")) == 2
    assert "Traceback" not in capfd.readouterr().err


def test_a_note_cannot_lead_out_of_the_folder(unbroken, interrupted):
    note = next((unfinished(interrupted) / NOTES).glob("*-*.json"))
    note.write_text(json.dumps(json.loads(note.read_text()) | {"path": "../outside"}))
    (interrupted.parent / "outside").write_text("kept")
    assert run(line(unbroken, interrupted, "--resume")) == 0
    assert digest(interrupted) == digest(unbroken / "whole")
    assert (interrupted.parent / "outside").read_text() == "kept"


def test_nothing_is_kept_of_an_export_that_fails_its_floors(unbroken, tmp_path):
    tier = unbroken / "tiny-tier.toml"
    strict = tmp_path / "strict.toml"
    strict.write_text(tier.read_text().replace("floor_db = 100.0", "floor_db = 200.0"))
    plan = make_plan(
        load_checkpoint(unbroken / "checkpoint"), load_tier(str(strict)), ("onnx",), ("decoder",), out=tmp_path / "b"
    )
    with pytest.raises(exporting.VerificationError, match="No bundle was written"):
        exporting.export(plan)
    assert sorted(os.listdir(tmp_path)) == ["strict.toml"]


def test_only_a_folder_of_ours_is_taken_up(tmp_path):
    foreign = tmp_path / ".b.partial-1999999999"
    (foreign / NOTES).mkdir(parents=True)
    (foreign / NOTES / "settings.json").write_text("{}")
    (foreign / NOTES / "a-b.json").write_text("{}")
    with pytest.raises(InputError), new_folder(tmp_path / "b", "m.json", keep=has_notes, resume=True) as root:
        assert root != foreign and not has_notes(root)
        raise InputError("enough")
    assert (foreign / NOTES / "a-b.json").is_file()


def test_killed_at_random_moments_and_resumed_it_ends_in_the_same_bytes(unbroken, tmp_path):
    command = [sys.executable, "-m", "edgegen", *line(unbroken, tmp_path / "b", "--resume")]
    generator = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(generator.uniform(3, 9))
        process.kill()
        process.wait()
        if (tmp_path / "b").exists():
            assert digest(tmp_path / "b") == digest(unbroken / "whole")
            shutil.rmtree(tmp_path / "b")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert digest(tmp_path / "b") == digest(unbroken / "whole")
    assert os.listdir(tmp_path) == ["b"]
