"""The commands as a user meets them: they work, and bad input is one line, exit code 2, and nothing touched."""

import errno
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import tiny_checkpoint, tiny_tier

from edgegen import plan as plan_module
from edgegen.bundle import load_bundle
from edgegen.cli import run
from edgegen.emit import onnx as emit_onnx
from edgegen.files import digest
from edgegen.journal import has_notes

COMMANDS = ("export", "generate", "verify", "inspect", "tiers", "devices", "doctor")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a checkpoint, a tier and an ONNX bundle made by the command."""
    folder = tmp_path_factory.mktemp("cli")
    tiny_checkpoint(folder / "checkpoint")
    tiny_tier(folder)
    assert run(export_line(folder, folder / "bundle")) == 0
    return folder


def export_line(folder: Path, out: Path, *more: str) -> list[str]:
    return [
        "export",
        "--tier",
        str(folder / "tiny-tier.toml"),
        "--backend",
        "onnx",
        "--checkpoint",
        str(folder / "checkpoint"),
        "--out",
        str(out),
        *more,
    ]


@pytest.fixture
def copy(made, tmp_path):
    """The same folder, to spoil."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def refused(capfd, arguments, *expected, code=2) -> str:
    """Runs a line that must fail: one line on stderr that says what is expected, nothing on stdout."""
    capfd.readouterr()
    assert run([str(argument) for argument in arguments]) == code
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith(("+ ", "x "))]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert out == ""
    for text in expected:
        assert text in lines[0]
    return lines[0]


def test_export_makes_a_bundle_with_a_picture(made):
    bundle = load_bundle(made / "bundle")
    assert [a.name for a in bundle.manifest.components] == ["text_encoder", "transformer", "decoder"]
    assert bundle.manifest.tier == "tiny-tier" and bundle.manifest.width == 0.5
    rows = json.loads((made / "bundle" / "verify.json").read_text())
    assert {row["component"] for row in rows} == {"text_encoder", "transformer", "decoder", "picture"}
    assert all(row["passed"] and row["psnr_db"] >= row["floor_db"] for row in rows)
    assert Image.open(made / "bundle" / "sample.png").size == (4 * 64, 64)
    assert sorted(os.listdir(made / "bundle")) == ["manifest.json", "onnx", "sample.png", "tokenizer", "verify.json"]


def test_a_seed_gives_one_picture_on_the_artifacts_and_in_pytorch(made, tmp_path, capfd):
    pictures = {}
    for backend in ("onnx", "torch"):
        out = tmp_path / f"{backend}.png"
        assert (
            run(
                [
                    "generate",
                    "a cat",
                    "--bundle",
                    str(made / "bundle"),
                    "--backend",
                    backend,
                    "--seed",
                    "3",
                    "--out",
                    str(out),
                    "--json",
                ]
            )
            == 0
        )
        report = json.loads(capfd.readouterr().out)
        assert report["picture"] == str(out) and report["seed"] == 3 and report["backend"] == backend
        pictures[backend] = np.asarray(Image.open(out), np.int16)
    assert pictures["onnx"].shape == (64, 64, 3)
    assert np.abs(pictures["onnx"] - pictures["torch"]).max() <= 1
    other = tmp_path / "other.png"
    assert run(["generate", "a cat", "--bundle", str(made / "bundle"), "--seed", "4", "--out", str(other)]) == 0
    assert np.abs(np.asarray(Image.open(other), np.int16) - pictures["onnx"]).max() > 8


def test_previews_and_a_cut_prompt_are_told(made, tmp_path, capfd):
    line = [
        "generate",
        "a cat " * 30,
        "--bundle",
        str(made / "bundle"),
        "--steps",
        "3",
        "--preview",
        "--out",
        str(tmp_path / "x.png"),
    ]
    assert run(line) == 0
    assert "its end was left out" in capfd.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["x-step01.png", "x-step02.png", "x.png"]


def test_verify_and_inspect_read_the_bundle(made, capfd):
    assert run(["verify", str(made / "bundle"), "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["passed"] and len(report["verify"]) == 4
    assert run(["inspect", str(made / "bundle"), "--json"]) == 0
    components = json.loads(capfd.readouterr().out)["components"]
    transformer = next(c for c in components if c["component"] == "transformer")
    assert transformer["operations"]["MatMul"] > 0 and transformer["reshapes"] > 0 and transformer["parameters"] > 20000
    assert run(["verify", str(made / "bundle")]) == 0 and run(["inspect", str(made / "bundle")]) == 0
    assert "Reshape" in capfd.readouterr().out


def test_verify_fails_when_the_checkpoint_is_another(made, copy, capfd):
    other = tiny_checkpoint(copy / "other", seed=1)
    assert run(["verify", str(made / "bundle"), "--checkpoint", str(other)]) == 1
    err = capfd.readouterr().err
    assert "transformer on onnx reached" in err and "its floor is 100 dB" in err


def test_an_export_below_its_floor_leaves_nothing(copy, tmp_path, capfd):
    tier = copy / "tiny-tier.toml"
    tier.write_text(tier.read_text().replace("floor_db = 100.0", "floor_db = 199.0"))
    refused(
        capfd,
        export_line(copy, tmp_path / "new", "--components", "decoder"),
        "decoder on onnx reached",
        "its floor is 199 dB",
        code=1,
    )
    assert not (tmp_path / "new").exists() and os.listdir(tmp_path) == ["copy"]


def test_a_dry_run_writes_nothing_and_says_predicted(copy, capfd):
    assert run(export_line(copy, copy / "new", "--dry-run", "--json")) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["source"] == "predicted" and report["bytes"] > 0 and report["memory_bytes"] > report["bytes"]
    assert run(export_line(copy, copy / "new", "--dry-run")) == 0
    assert "predicted" in capfd.readouterr().out and not (copy / "new").exists()


def test_the_paper_preset_is_planned_and_said_to_be_random(tmp_path, capfd):
    assert (
        run(
            [
                "export",
                "--preset",
                "paper",
                "--tier",
                "high-phone",
                "--backend",
                "coreml",
                "--components",
                "transformer",
                "--out",
                str(tmp_path / "x"),
                "--dry-run",
                "--json",
            ]
        )
        == 0
    )
    report = json.loads(capfd.readouterr().out)
    assert report["random_weights"] and report["resolution"] == [1024, 1024]
    assert 429e6 < report["components"][0]["parameters"] < 438e6


def test_lists(capfd):
    for command, name in (("tiers", "low-android"), ("devices", "pixel8")):
        assert run([command, "--json"]) == 0
        assert name in [entry["name"] for entry in json.loads(capfd.readouterr().out)]
        assert run([command]) == 0
        out, err = capfd.readouterr()
        assert name in out and err == ""


def test_doctor_says_what_works_with_versions(capfd):
    assert run(["doctor", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    works = {b["backend"]: b["convert"]["works"] for b in report["backends"]}
    installed = importlib.util.find_spec("coreai_torch") is not None  # an extra
    assert works == {"coreml": True, "onnx": True, "executorch": True, "coreai": installed}
    assert report["versions"]["torch"].startswith("2.")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command, capfd):
    assert run([command, "--help"]) == 0
    out, err = capfd.readouterr()
    assert f"Example: edgegen {command}" in out + err and "--json" in out + err


def test_help_comes_at_once_and_without_heavy_imports():
    script = "import sys; from edgegen.cli import run; run(['--help']); print('torch' in sys.modules)"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert time.perf_counter() - start < 5  # well below 1 s on an idle machine


# ---- bad input: what the project promises to refuse


@pytest.mark.parametrize("spoil, expected", [
    (lambda f: (f / "transformer.safetensors").unlink(), "transformer.safetensors is missing"),
    (lambda f: (f / "transformer.safetensors").write_bytes(b""), "transformer.safetensors is empty"),
    (lambda f: os.truncate(f / "decoder.safetensors", 3000), "decoder.safetensors is truncated"),
    (lambda f: change(f, "decoder", lambda s: s.pop("layers.0.bias")), "lacks layers.0.bias"),
    (lambda f: change(f, "decoder", lambda s: s.update(extra=torch.zeros(1))), "unexpected extra"),
    (lambda f: change(f, "transformer", lambda s: s["patch.bias"].fill_(float("nan"))), "patch.bias has 32 NaN"),
    (lambda f: shutil.rmtree(f), "does not exist"),
    (lambda f: (f / "config.json").write_text("nonsense"), "config.json is not JSON: Expecting value"),
    (lambda f: (f / "config.json").unlink(), "config.json is missing"),
])  # fmt: skip
def test_a_spoilt_checkpoint(copy, capfd, spoil, expected):
    spoil(copy / "checkpoint")
    refused(capfd, export_line(copy, copy / "new"), expected)
    assert not (copy / "new").exists()


def change(folder, part, edit):
    path = folder / f"{part}.safetensors"
    state = load_file(path)
    edit(state)
    save_file(state, path)


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin"])
def test_a_pickle(copy, capfd, suffix):
    pickle = copy / f"model{suffix}"
    torch.save({}, pickle)
    refused(capfd, ["export", "--checkpoint", pickle, "--out", copy / "new"], "is a pickle", "save_file")


@pytest.mark.parametrize("more, expected", [
    (["--resolution", "72x64"], "The nearest that fits is 64x64"),
    (["--resolution", "64"], "not WIDTHxHEIGHT"),
    (["--resolution", "-64x64"], "not WIDTHxHEIGHT"),
    (["--resolution", "0x64"], "not WIDTHxHEIGHT"),
    (["--tier", "hi-phone"], "Did you mean high-phone?"),
    (["--tier", "nowhere.toml"], "nowhere.toml"),
    (["--tier", "low-android"], "width 0.375 is not one of"),
    (["--backend", "onxx"], "Did you mean onnx?"),
    (["--components", "transformer,decodr"], "Did you mean decoder?"),
    (["--preset", "papper"], "exclude each other"),
    (["--no-such-option"], "--no-such-option"),
])  # fmt: skip
def test_wrong_options(made, capfd, tmp_path, more, expected):
    refused(capfd, export_line(made, tmp_path / "new", *more), expected)
    assert not list(tmp_path.iterdir())


def test_an_unknown_preset_and_device(capfd, tmp_path):
    refused(capfd, ["export", "--preset", "papper", "--out", tmp_path / "x"], "Did you mean paper?")
    refused(capfd, ["devices", "pixl8"], "Did you mean pixel8?")


@pytest.mark.parametrize("old, new, expected", [
    ("width = 0.5", "widht = 0.5", "width"),
    ("width = 0.5", "width = 'half'", "a number"),
    ("width = 0.5", "widths = 0.5", "width"),
])  # fmt: skip
def test_a_wrong_tier_file(copy, capfd, old, new, expected):
    tier = copy / "tiny-tier.toml"
    tier.write_text(tier.read_text().replace(old, new))
    refused(capfd, export_line(copy, copy / "new"), "tiny-tier.toml", expected)


def test_an_occupied_folder(copy, capfd):
    before = digest(copy / "bundle")
    refused(capfd, export_line(copy, copy / "bundle"), "is not empty", "--overwrite")
    assert digest(copy / "bundle") == before
    refused(capfd, export_line(copy, copy / "checkpoint", "--overwrite"), "is the checkpoint")
    (copy / "mine").mkdir()
    (copy / "mine" / "manifest.json").write_text("{}")
    refused(capfd, export_line(copy, copy / "mine", "--overwrite"), "replaces only what was made here")
    refused(capfd, export_line(copy, copy / "tiny-tier.toml"), "is a file")


def test_a_disk_that_is_full_before_and_while_writing(copy, capfd, monkeypatch):
    before = sorted(os.listdir(copy))

    def fail(component, path, *rest):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(emit_onnx, "write", fail)
        refused(capfd, export_line(copy, copy / "new"), "disk", "full")
    with monkeypatch.context() as patch:
        patch.setattr(plan_module, "free_bytes", lambda path: 10)
        refused(capfd, export_line(copy, copy / "new"), "disk", "full", "needed")
    assert sorted(os.listdir(copy)) == before


def test_a_converter_that_fails_is_one_line(copy, capfd, monkeypatch):
    def fail(component, path, *rest):
        os.write(1, b"chatter " * 100)
        raise RuntimeError("no such operation\nand a long story")

    monkeypatch.setattr(emit_onnx, "write", fail)
    refused(capfd, export_line(copy, copy / "new"), "onnx cannot take the ", "no such operation", code=1)
    assert not (copy / "new").exists()


@pytest.mark.parametrize("command", ["verify", "inspect", "generate"])
def test_a_bundle_that_changed_or_leads_out(copy, capfd, tmp_path, command):
    def line(bundle):
        return (
            ["generate", "x", "--bundle", bundle, "--out", tmp_path / "x.png"]
            if command == "generate"
            else [command, bundle]
        )

    bundle = copy / "bundle"
    refused(capfd, line(copy / "nowhere"), "does not exist")
    refused(capfd, line(copy), "no manifest.json")
    manifest = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(manifest.replace("onnx/decoder.onnx", "../checkpoint/config.json"))
    refused(capfd, line(bundle), "points outside the bundle")
    (bundle / "manifest.json").write_text(manifest)
    with (bundle / "onnx" / "decoder.onnx").open("ab") as file:
        file.write(b"x")
    refused(capfd, line(bundle), "decoder.onnx has changed")
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("more, expected", [
    (["--backend", "onxx"], "Did you mean onnx?"),
    (["--backend", "coreml"], "has no text_encoder for coreml"),
    (["--steps", "0"], "steps 0"),
    (["--steps", "many"], "--steps"),
    (["--seed", "-1"], "seed -1"),
    (["--guidance", "nan"], "guidance nan"),
    (["--out", "nowhere/x.png"], "nowhere does not exist"),
    (["--out", "x.gguf"], "suffix"),
])  # fmt: skip
def test_wrong_requests(made, capfd, tmp_path, monkeypatch, more, expected):
    monkeypatch.chdir(tmp_path)
    refused(capfd, ["generate", "a cat", "--bundle", made / "bundle", *more], expected)
    assert not list(tmp_path.iterdir())


def test_no_bundle_to_draw_with(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(capfd, ["generate", "a cat"], "no bundle in out/", "edgegen export")


def test_a_checkpoint_that_is_gone(copy, made, capfd, tmp_path):
    manifest = copy / "bundle" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(str(made / "checkpoint"), str(copy / "gone")))
    refused(capfd, ["verify", copy / "bundle"], "is gone", "--checkpoint")
    assert run(["verify", str(copy / "bundle"), "--checkpoint", str(copy / "checkpoint")]) == 0


def test_errors_are_json_when_asked(capfd):
    assert run(["devices", "pixl8", "--json"]) == 2
    out, err = capfd.readouterr()
    assert json.loads(out)["error"]["exit_code"] == 2 and "pixel8" in json.loads(out)["error"]["remedy"]
    assert err.count("\n") == 1


def kill_after(command, seconds, kill) -> None:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        kill(process)
        process.wait()


def test_an_export_told_to_end_cleans_up(copy):
    command = [sys.executable, "-m", "edgegen", *export_line(copy, copy / "new" / "b")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (copy / "new").exists():
        time.sleep(0.1)
    process.terminate()
    assert process.wait(60) == 143
    assert not (copy / "new").exists() or has_notes(*(copy / "new").iterdir())  # what is finished is kept


def test_an_export_killed_at_any_moment_leaves_nothing_that_looks_finished(copy):
    command = [sys.executable, "-m", "edgegen", *export_line(copy, copy / "new" / "b")]
    for seconds in random.Random(0).choices([tenths / 10 for tenths in range(5, 100)], k=6):
        kill_after(command, seconds, subprocess.Popen.kill)
        for manifest in (copy / "new").glob("[!.]*/manifest.json"):  # unfinished folders have a dot
            load_bundle(manifest.parent)
        shutil.rmtree(copy / "new" / "b", ignore_errors=True)  # one that was done in time
    assert run(export_line(copy, copy / "new" / "b", "--components", "decoder")) == 0
    assert os.listdir(copy / "new") == ["b"]
