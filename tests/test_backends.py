"""The registry: what every record must say, and a back end that another package adds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TIER, tiny_checkpoint

from edgegen.backends import registry
from edgegen.backends.registry import backend_names, fastest_first, find_backend, list_backends
from edgegen.cli import run
from edgegen.errors import InputError

TOY = """
[backends.toy]
attention = "batched"
precision = "float32"
floor_db = 100.0
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A folder on the path of this process and of its children, with metadata as an installed package has."""
    here = Path(__file__).parent
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "toy_backend.py").write_text((here / "toy_backend.py").read_text())
    metadata = tmp_path / "site" / "toy_backend-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-backend\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[edgegen.backends]\ntoy = toy_backend:BACKEND\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "toy_backend", raising=False)
    registry.list_backends.cache_clear()
    yield metadata
    registry.list_backends.cache_clear()
    sys.modules.pop("toy_backend", None)


def output(capfd, *words) -> dict:
    """The document of a command that must succeed."""
    capfd.readouterr()
    code = run([*map(str, words), "--json"])
    told = capfd.readouterr()
    assert code == 0, told.err
    return json.loads(told.out)


def test_names_are_unique_and_ranked():
    assert backend_names()[:3] == ("coreml", "onnx", "executorch")
    assert sorted(fastest_first()) == sorted(backend_names()) and fastest_first()[0] == "onnx"
    assert len({backend.suffix for backend in list_backends()}) == len(backend_names())


def test_an_unknown_back_end_suggests_the_closest():
    with pytest.raises(InputError, match="Did you mean onnx"):
        find_backend("onix")


def test_reading_the_registry_imports_neither_torch_nor_a_runtime():
    heavy = "torch", "onnxruntime", "coremltools", "executorch", "onnx"
    code = f"import sys, edgegen.target as t; t.list_tiers(); print([m for m in {heavy} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_a_back_end_of_another_package_goes_the_whole_way(installed, tmp_path, capfd):
    tier = tmp_path / "tier.toml"
    tier.write_text(TIER + TOY)
    checkpoint, bundle = tiny_checkpoint(tmp_path / "checkpoint"), tmp_path / "bundle"
    made = output(capfd, "export", "--tier", tier, "--checkpoint", checkpoint, "--backend", "toy", "--out", bundle)
    assert {(row["component"], row["evaluator"][:5]) for row in made["verify"]} == {
        (name, "torch") for name in ("text_encoder", "transformer", "decoder", "picture")
    }
    assert all(row["psnr_db"] >= 100 for row in made["verify"]) and Path(made["sample"]).is_file()
    assert output(capfd, "verify", bundle)["passed"]
    contents = output(capfd, "inspect", bundle)["components"]
    assert len(contents) == 3 and all(sum(c["operations"].values()) > 5 for c in contents)
    drawn = output(capfd, "generate", "a red heart", "--bundle", bundle, "--out", tmp_path / "heart.png")
    assert drawn["backend"] == "toy" and (tmp_path / "heart.png").is_file()
    record = tmp_path / "rows.jsonl"
    output(capfd, "bench", "--bundle", bundle, "--seconds", 0.1, "--record", record, "--force")
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    assert {row["component"] for row in rows} == {"text_encoder", "transformer", "decoder", "picture"}
    assert all(row["backend"] == "toy" and row["latency_ms"]["p50"] > 0 for row in rows)
    assert "toy" in [health["backend"] for health in output(capfd, "doctor")["backends"]]


def test_a_package_that_adds_something_else_is_named(installed):
    (installed / "entry_points.txt").write_text("[edgegen.backends]\ntoy = toy_backend:write\n")
    with pytest.raises(InputError, match="toy_backend:write"):
        list_backends()


def test_onnxruntime_is_imported_in_one_place_only_which_turns_its_telemetry_off():
    root = Path(registry.__file__).parents[2]
    importing = {
        path.relative_to(root).as_posix()
        for folder in ("edgegen", "benchmarks")
        for path in (root / folder).rglob("*.py")
        if any(line.split()[:2] in (["import", "onnxruntime"], ["from", "onnxruntime"]) for line in path.open())
    }
    assert importing == {"edgegen/runtime/onnx.py"}
    code = "import os; from edgegen.runtime.onnx import import_onnxruntime as get; os.environ.pop(KEY, None); get()"
    told = subprocess.run(
        [sys.executable, "-c", f"KEY = 'ORT_DISABLE_TELEMETRY'; {code}; print(os.environ[KEY])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "1"
