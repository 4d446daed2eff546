"""`edgegen bench --device mac`: what the Swift app's command measures, recorded here. A script stands in for it."""

import json
import sys
from pathlib import Path

import pytest
from small_bundle import VECTORS, write_small_bundle

from edgegen.bench import records
from edgegen.cli.main import run

ROW = json.loads((VECTORS / "rows.json").read_text("ascii"))["row"] | {"device": "host", "backend": "coreml"}


@pytest.fixture
def bundle(tmp_path) -> Path:
    return write_small_bundle(tmp_path / "bundle")


def stand_in(tmp_path: Path, monkeypatch, body: str) -> Path:
    """Makes a script the command; what it was called with is in the file returned."""
    script, called = tmp_path / "swift.py", tmp_path / "called"
    script.write_text(
        f"import json, sys, pathlib\nopen({str(called)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n{body}"
    )
    monkeypatch.setenv("EDGEGEN_SWIFT", f"{sys.executable} {script}")
    return called


def bench(bundle: Path, record: Path, *more: str) -> int:
    return run(["bench", "--device", "mac", "--bundle", str(bundle), "--record", str(record), *more])


def test_rows_are_recorded_as_they_are_given(bundle, tmp_path, monkeypatch, capfd):
    called = stand_in(tmp_path, monkeypatch, f"print(json.dumps(json.loads({json.dumps(ROW)!r})))\n")
    record = tmp_path / "rows.jsonl"
    assert bench(bundle, record, "--runs", "5", "--component", "transformer", "--json") == 0
    told = json.loads(capfd.readouterr().out)
    assert told["rows"] == records.read(record) == [ROW] and told["source"] == "measured"
    words = json.loads(called.read_text())
    assert words[:5] == ["bench", "--bundle", str(bundle), "--backend", "coreml"]
    assert words[words.index("--runs") + 1] == "5" and words[words.index("--component") + 1] == "transformer"


def test_a_failure_of_the_command_is_one_line(bundle, tmp_path, monkeypatch, capfd):
    stand_in(tmp_path, monkeypatch, "sys.exit('error: tiny/low-android needs about 9 MB of memory.')\n")
    assert bench(bundle, tmp_path / "rows.jsonl") == 1
    assert "edgegen-swift: tiny/low-android needs about 9 MB" in capfd.readouterr().err
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_command_that_measures_nothing_is_an_error(bundle, tmp_path, monkeypatch, capfd):
    stand_in(tmp_path, monkeypatch, "")
    assert bench(bundle, tmp_path / "rows.jsonl") == 1
    assert "nothing was measured" in capfd.readouterr().err and not (tmp_path / "rows.jsonl").exists()


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac measures")
def test_elsewhere_it_is_refused(bundle, tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("EDGEGEN_SWIFT", raising=False)
    assert bench(bundle, tmp_path / "rows.jsonl") == 2
    assert "--device mac measures on a Mac" in capfd.readouterr().err


def test_a_command_that_is_not_there_is_one_line(bundle, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("EDGEGEN_SWIFT", str(tmp_path / "none"))
    assert bench(bundle, tmp_path / "rows.jsonl") == 2
    assert "cannot be run" in capfd.readouterr().err
