"""The front door for Python: lazy, typed, the same from a thread and a notebook, and what README and examples show."""

import re
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import pytest
from tiny import tiny_checkpoint, tiny_tier

import edgegen
from edgegen.errors import EdgegenError, InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    checkpoint = tiny_checkpoint(folder / "checkpoint")
    result = edgegen.export_bundle(
        checkpoint, tiny_tier(folder), backends=["onnx"], out=folder / "bundle", progress=False
    )
    assert result.to_dict()["bundle"] == str(result.bundle) == str(folder / "bundle")
    return result.bundle


def run_python(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_name_is_there_and_documented():
    for name in edgegen.__all__:
        assert getattr(edgegen, name).__doc__, name
    assert set(edgegen.__all__) <= set(dir(edgegen)) and (ROOT / "edgegen" / "py.typed").is_file()
    with pytest.raises(AttributeError, match="nonsense"):
        _ = edgegen.nonsense


def test_importing_edgegen_costs_nothing(tmp_path):
    code = "import sys, edgegen; print([m for m in ('torch', 'numpy', 'rich', 'onnx') if m in sys.modules])"
    assert run_python(code, tmp_path).strip() == "[]"


def test_results_are_what_the_commands_print(bundle, tmp_path):
    drawn = edgegen.generate_image("a heart", bundle, seed=3, out=tmp_path / "heart.png", progress=False)
    assert drawn.open().size == edgegen.load_bundle(bundle).manifest.resolution == drawn.resolution
    assert drawn.to_dict() == asdict(drawn)
    found = edgegen.verify_bundle(bundle, progress=False)
    assert found.passed and {row["component"] for row in found.to_dict()["verify"]} >= {"transformer", "picture"}
    inspected = edgegen.inspect_bundle(bundle, progress=False)
    assert len(inspected.components) == 3 and inspected.to_dict()["components"][0]["operations"]
    predictions = edgegen.predict_latency(bundle, "pixel8")
    assert {row["component"] for row in predictions.rows} == {"text_encoder", "transformer", "decoder", "picture"}
    assert all(row["source"] == "predicted" for row in predictions.to_dict()["rows"])
    assert edgegen.load_bundle(bundle).manifest.model == "tiny"


def test_errors_are_those_of_edgegen_and_name_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match="low-android"):
        edgegen.load_tier("low-andriod")
    with pytest.raises(EdgegenError, match="does not exist"):
        edgegen.verify_bundle(tmp_path / "none", progress=False)
    assert edgegen.errors.InputError is InputError


def test_threads_draw_what_the_main_thread_draws(bundle, tmp_path):
    def draw(name: str) -> None:
        edgegen.generate_image("a star", bundle, seed=5, out=tmp_path / name, progress=False)

    draw("main.png")
    threads = [threading.Thread(target=draw, args=(f"{i}.png",)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pictures = [(tmp_path / name).read_bytes() for name in ("main.png", "0.png", "1.png", "2.png")]
    assert len(set(pictures)) == 1


def test_what_is_of_the_whole_process_is_put_back(bundle, tmp_path, capfd):
    code = (
        "import os, tempfile, torch, edgegen\n"
        "before = torch.get_num_threads(), tempfile.gettempdir(), os.fstat(1)[:3], os.fstat(2)[:3]\n"
        f"edgegen.generate_image('a star', {str(bundle)!r}, out='star.png', progress=False)\n"
        "assert before == (torch.get_num_threads(), tempfile.gettempdir(), os.fstat(1)[:3], os.fstat(2)[:3])\n"
        "print('kept')"
    )
    assert run_python(code, tmp_path).strip() == "kept"


def test_progress_shows_in_a_notebook(bundle, tmp_path, monkeypatch):
    manager = pytest.importorskip("jupyter_client.manager", reason="needs the extra [test]")
    pytest.importorskip("ipykernel", reason="needs the extra [test]")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    kernel, client = manager.start_new_kernel(kernel_name="python3", cwd=str(tmp_path))
    try:
        drawing = f"edgegen.generate_image('a star', {str(bundle)!r}, out='star.png')"
        code = f"import edgegen; print({drawing}.backend)"
        told: list[str] = []
        reply = client.execute_interactive(code, timeout=120, output_hook=lambda message: told.append(str(message)))
        assert reply["content"]["status"] == "ok", reply["content"]
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
    shown = "".join(told)
    assert "drawing with onnx" in shown and "onnx\\n" in shown and (tmp_path / "star.png").is_file()


def test_readme_example_runs(tmp_path):
    readme = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    assert 3 <= len(example.strip().splitlines()) <= 10
    run_python(example, tmp_path)
    assert (tmp_path / "heart.png").is_file()


@pytest.mark.parametrize("name", ["first_bundle", "own_checkpoint"])
def test_examples_run(name, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / f"{name}.py", tmp_path], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0 and done.stdout.count("\n") >= 3, done.stderr[-2000:]
