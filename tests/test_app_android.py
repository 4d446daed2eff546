"""`edgegen app android` and what comes back from a phone: projects, rows of apps, a phone at the end of a cable."""

import json
import os
import re
import stat
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from small_bundle import write_small_bundle
from tiny import tiny_checkpoint, tiny_tier

from edgegen.apps.android import ANDROID, PREDICTIONS
from edgegen.bench.adb import Patience, measure_phone
from edgegen.bench.app_predictions import app_predictions
from edgegen.bench.imported import keep, read_rows
from edgegen.bundle import load_bundle
from edgegen.cli.main import run
from edgegen.errors import EdgegenError, InputError
from edgegen.target import load_device

ROOT = Path(__file__).parents[1]
APP = ROOT / "android_app"
VECTORS = json.loads((ROOT / "tests/vectors/rows.json").read_text("ascii"))
ROW = VECTORS["row"]
NAMESPACE = {"m": "http://maven.apache.org/POM/4.0.0"}
ANDROID_NAME = "{http://schemas.android.com/apk/res/android}name"
QUICK = Patience(poll=0.01, bench=0.5, command=20, push=20)


@pytest.fixture(scope="module")
def real_bundle(tmp_path_factory) -> Path:
    """A tiny model's bundle for ONNX, exported as any other."""
    folder = tmp_path_factory.mktemp("real")
    checkpoint, tier = tiny_checkpoint(folder / "checkpoint"), tiny_tier(folder)
    words = ["--checkpoint", str(checkpoint), "--tier", str(tier), "--backend", "onnx", "--out", str(folder / "bundle")]
    assert run(["export", *words, "--json"]) == 0
    return folder / "bundle"


def test_a_project_carries_bundle_and_predictions(real_bundle, tmp_path, capfd):
    out = tmp_path / "my_app"
    assert run(["app", "android", "--bundle", str(real_bundle), "--out", str(out), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    for part in ANDROID.parts:
        assert (out / part).exists(), part
    (carried,) = (out / ANDROID.bundles).iterdir()
    assert load_bundle(carried).backends == ("onnx",) and len(told["bundles"]) == 1
    assert not list(out.rglob("src/test")) and not (out / "ci").exists()
    assert os.access(out / "gradlew", os.X_OK)
    predictions = json.loads((out / PREDICTIONS).read_text())
    key = f"{load_bundle(real_bundle).artifact('transformer', 'onnx').sha256}/onnx"
    assert predictions["source"] == "predicted" and len(predictions["devices"]) > 5
    assert all(device["picture_ms"][key] > 0 for device in predictions["devices"])
    assert {"pixel8"} <= {device["name"] for device in predictions["devices"]}


def test_a_bundle_for_core_ml_alone_is_refused(tmp_path, capfd):
    bundle = write_small_bundle(tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["components"] = [c for c in manifest["components"] if c["backend"] == "coreml"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert run(["app", "android", "--bundle", str(bundle), "--out", str(tmp_path / "app")]) == 2
    assert "--backend executorch" in capfd.readouterr().err and not (tmp_path / "app").exists()


def test_predictions_leave_out_what_nothing_covers(real_bundle):
    bundle = load_bundle(real_bundle)
    assert app_predictions([bundle], ("executorch",)) == {"source": "predicted", "devices": []}


def test_an_installed_edgegen_carries_the_sources():
    carried = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for part in ANDROID.parts:
        assert carried["force-include"][f"android_app/{part}"] == f"edgegen/android_app/{part}"
        assert (APP / part).exists()


def test_both_build_files_name_the_same_versions():
    gradle = tomllib.loads((APP / "gradle/libs.versions.toml").read_text())["versions"]
    pom = ElementTree.parse(APP / "ci/pom.xml").find("m:properties", NAMESPACE)
    maven = {entry.tag.split("}")[1]: (entry.text or "") for entry in pom if isinstance(entry.tag, str)}
    for name in ("kotlin", "coroutines", "serialization", "onnxruntime"):
        assert gradle[name] == maven[f"{name}.version"], name
    major, minor = map(int, gradle["onnxruntime"].split(".")[:2])
    assert (1, 23) <= (major, minor) < (1, 29)


def test_the_app_asks_for_no_internet_and_the_bench_has_a_process_of_its_own():
    manifest = ElementTree.parse(APP / "app/src/main/AndroidManifest.xml").getroot()
    permissions = {entry.get(ANDROID_NAME) for entry in manifest.iter("uses-permission")}
    assert permissions and not any("INTERNET" in name or "NETWORK" in name for name in permissions)
    (service,) = manifest.iter("service")
    assert service.get(ANDROID_NAME.replace("}name", "}process")) == ":bench"


def test_strings_of_the_system_are_in_both_languages():
    values = {}
    for folder in ("values", "values-de"):
        root = ElementTree.parse(APP / "app/src/main/res" / folder / "strings.xml").getroot()
        values[folder] = {entry.get("name") for entry in root if entry.get("translatable") != "false"}
    assert values["values"] == values["values-de"] and values["values"]


def test_the_core_knows_no_android_and_no_runtime():
    for path in (APP / "core/src").rglob("*.kt"):
        imports = re.findall(r"^import (\S+)", path.read_text("utf-8"), re.MULTILINE)
        assert not [name for name in imports if re.match(r"android|ai\.onnx|org\.pytorch", name)], path


def write_rows(path: Path, *rows: dict, tail: str = "") -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


def changed(row: dict, change: dict) -> dict:
    """A copy of a row with values at dotted fields."""
    copy = json.loads(json.dumps(row))
    for where, value in change.items():
        *outer, last = where.split(".")
        inner = copy
        for name in outer:
            inner = inner[name]
        inner[last] = value
    return copy


def test_an_apps_rows_are_shown_as_measured_there_and_kept_once(tmp_path, capfd):
    file = write_rows(tmp_path / "rows.jsonl", ROW, changed(ROW, {"component": "decoder"}), tail='{"source": "mea')
    record = tmp_path / "out" / "measurements.jsonl"
    words = ["bench", "--import", str(file), "--record", str(record)]
    assert run(words) == 0
    shown = capfd.readouterr()
    assert "Google Pixel 8 (Tensor G3, 9 cores, Android 16), source: measured" in shown.err
    assert "transformer" in shown.out and "decoder" in shown.out and "2 new of 2" in shown.err
    assert run([*words, "--json", "--report", str(tmp_path / "page.html")]) == 0
    assert len(json.loads(capfd.readouterr().out)["rows"]) == 2
    assert len(record.read_text().splitlines()) == 2
    assert "Tensor G3" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("case", VECTORS["refused"], ids=[case["name"] for case in VECTORS["refused"]])
def test_a_row_that_cannot_be_true_is_refused(tmp_path, case):
    file = write_rows(tmp_path / "rows.jsonl", ROW, changed(ROW, case["change"]))
    with pytest.raises(InputError, match="line 2"):
        read_rows(file)


@pytest.mark.parametrize("text", ["", "\n", "{}\n", "[]\n", "no JSON\n", '{"source": "measured"'])
def test_a_file_without_rows_is_refused(tmp_path, text, capfd):
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    assert run(["bench", "--import", str(file), "--record", str(tmp_path / "kept.jsonl")]) == 2
    assert len(capfd.readouterr().err.strip().splitlines()) == 1 and not (tmp_path / "kept.jsonl").exists()


def test_rows_are_kept_beside_what_is_there(tmp_path):
    record = tmp_path / "measurements.jsonl"
    assert keep([ROW], record) == 1
    assert keep([ROW, changed(ROW, {"date": "2026-02-01T00:00:00+00:00"})], record) == 1


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """A connected Pixel 8 with the app, as `adb` in the path; returns what changes its state."""
    home, programs = tmp_path / "phone", tmp_path / "bin"
    for folder in (home / "files", programs):
        folder.mkdir(parents=True)
    program = programs / "adb"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I {ROOT / "tests/fake_adb.py"} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_PHONE", str(home))
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    state = {"serials": {"A1": "device"}, "model": "Pixel 8", "installed": True, "free_kb": 10**7, "bench": "done",
             "rows": [json.dumps(changed(ROW, {"component": p})) for p in ("transformer", "picture")]}  # fmt: skip

    def change(**values):
        (home / "state.json").write_text(json.dumps(state | values))
        return home

    change()
    return change


def test_a_connected_phone_measures_and_stands_beside_its_prediction(phone, real_bundle, tmp_path, capfd):
    home = phone()
    write_rows(home / "files" / "measurements.jsonl", changed(ROW, {"date": "2020-01-01T00:00:00+00:00"}))
    words = [
        "bench",
        "--device",
        "pixel8",
        "--adb",
        "--bundle",
        str(real_bundle),
        "--record",
        str(tmp_path / "r.jsonl"),
    ]
    assert run([*words, "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert [row["component"] for row in told["rows"]] == ["transformer", "picture"]  # the older row is not of this run
    assert {row["source"] for row in told["predicted"]} == {"predicted"}
    assert {row["device"] for row in told["predicted"]} == {"pixel8"}
    log = (home / "log").read_text()
    assert "install" not in log and "am start -W -n org.edgegen.app/.BenchActivity" in log
    assert run(words) == 0
    assert "predicted" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"serials": {}}, "no phone is connected"),
        ({"serials": {"A1": "device", "B2": "device"}}, "2 phones are connected: A1, B2"),
        ({"serials": {"A1": "unauthorized"}}, "phone A1 is unauthorized"),
        ({"model": "Pixel 7"}, "is a Pixel 7, not a Pixel 8"),
        ({"installed": False}, "org.edgegen.app is not installed"),
        ({"free_kb": 1000}, "the phone is full"),
        ({"push": "full"}, "the phone is full"),
        ({"bench": "unplugged"}, "no longer connected"),
        ({"bench": "no activity"}, "the app does not start"),
        ({"bench": "failed"}, "onnx/decoder.onnx has changed"),
        ({"bench": "running"}, "took more than 0.5 s"),
        ({"rows": []}, "measured nothing"),
    ],
)
def test_what_can_be_wrong_with_a_phone_is_one_line(phone, tmp_path, state, message):
    phone(**state)
    bundle = load_bundle(write_small_bundle(tmp_path / "bundle"))
    with pytest.raises(EdgegenError) as caught:
        measure_phone(load_device("pixel8"), [bundle], patience=QUICK)
    assert message in caught.value.message and "\n" not in caught.value.message


def test_one_of_several_phones_can_be_named(phone, tmp_path, monkeypatch):
    phone(serials={"A1": "device", "B2": "device"})
    monkeypatch.setenv("ANDROID_SERIAL", "B2")
    bundle = load_bundle(write_small_bundle(tmp_path / "bundle"))
    assert len(measure_phone(load_device("pixel8"), [bundle], patience=QUICK)) == 2
    monkeypatch.setenv("ANDROID_SERIAL", "C3")
    with pytest.raises(InputError, match="phone C3 is not connected"):
        measure_phone(load_device("pixel8"), [bundle], patience=QUICK)


def test_without_adb_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    bundle = load_bundle(write_small_bundle(tmp_path / "bundle"))
    with pytest.raises(InputError, match="adb is not in the path"):
        measure_phone(load_device("pixel8"), [bundle], patience=QUICK)


@pytest.mark.parametrize("words", [["--adb"], ["--adb", "--device", "pixel8", "--import", "x.jsonl"],
                                   ["--adb", "--device", "pixel8", "--backend", "onnx"]])  # fmt: skip
def test_options_that_exclude_each_other_are_told(words, capfd):
    assert run(["bench", *words]) == 2
    assert len(capfd.readouterr().err.strip().splitlines()) == 1
