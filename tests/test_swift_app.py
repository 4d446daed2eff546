"""The Swift app's command draws what edgegen draws, and its records are edgegen's.

Where edgegen-swift was built, `EDGEGEN_SWIFT` holds the words that run it (.ci/swift sets it); elsewhere it is skipped.
"""

import hashlib
import json
import os
import shlex
import subprocess
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgegen.bench import records
from edgegen.bench.statistics import summarize
from edgegen.bundle import load_bundle
from edgegen.cli.main import run
from edgegen.model.sampler import initial_noise
from edgegen.model.text import make_tokenizers

COMMAND = shlex.split(os.environ.get("EDGEGEN_SWIFT", ""))
pytestmark = pytest.mark.skipif(not COMMAND, reason="EDGEGEN_SWIFT does not name a built edgegen-swift (.ci/swift)")

FLOOR_DB = 60.0
EXPORTS = {
    "low-android": ["--tier", "low-android"],
    "high-phone": ["--tier", "high-phone"],
    "full": ["--tier", "full"],
    "4.3 bits": ["--tier", "high-phone", "--bits", "4.3", "--tune-steps", "20"],
}
SEEDS = (0, 2**63 - 1)


@pytest.fixture(scope="module", params=EXPORTS)
def bundle(request, tmp_path_factory) -> Path:
    """A bundle of the bundled checkpoint at one tier, made by the command."""
    out = tmp_path_factory.mktemp("swift") / "model" / "tier"
    assert run(["export", *EXPORTS[request.param], "--backend", "onnx", "--out", str(out)]) == 0
    return out


def swift(*words: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, timeout=300)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


@pytest.mark.parametrize("seed", SEEDS)
def test_pictures_ids_and_noise_are_edgegens(bundle, tmp_path, seed):
    manifest = load_bundle(bundle).manifest
    assert manifest.prompts
    for index, prompt in enumerate(manifest.prompts):
        ours, theirs = tmp_path / f"{index}.png", tmp_path / f"{index}-swift.png"
        line = ["generate", prompt, "--bundle", bundle, "--backend", "onnx", "--seed", seed]
        assert run([*map(str, line), "--out", str(ours)]) == 0
        drawn = swift(*line, "--out", theirs, "--json")
        assert drawn.returncode == 0, drawn.stderr
        found = psnr(pixels(ours), pixels(theirs))
        print(f"{bundle} seed {seed} {prompt!r}: {found:.1f} dB")
        assert found >= FLOOR_DB
        same_beginnings(json.loads(drawn.stdout), bundle, prompt, seed)


def same_beginnings(told: dict, folder: Path, prompt: str, seed: int) -> None:
    """Ids and noise, bit for bit."""
    bundle = load_bundle(folder)
    ids = make_tokenizers(bundle.tokenizer_files()).encode([prompt])
    assert told["word_ids"] == ids.word[0].tolist() and told["byte_ids"] == ids.byte[0].tolist()
    noise = initial_noise(bundle.manifest.latent_shape, seed)
    assert told["noise_sha256"] == hashlib.sha256(noise.tobytes()).hexdigest()


def test_steps_and_guidance_are_edgegens(bundle, tmp_path):
    ours, theirs = tmp_path / "ours.png", tmp_path / "swift.png"
    line = ["generate", "a red heart", "--bundle", bundle, "--backend", "onnx", "--steps", 7, "--guidance", 2.5]
    assert run([*map(str, line), "--out", str(ours)]) == 0
    assert swift(*line, "--out", theirs).returncode == 0
    assert psnr(pixels(ours), pixels(theirs)) >= FLOOR_DB
    with Image.open(theirs) as image:
        assert image.text["Description"] == "a red heart" and "Guidance: 2.5" in image.text["parameters"]


def test_a_changed_bundle_is_one_line(bundle, tmp_path):
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", bundle, broken], check=True)
    with (broken / "onnx" / "decoder.onnx").open("ab") as file:
        file.write(b"x")
    drawn = swift("generate", "a dog", "--bundle", broken, "--out", tmp_path / "none.png")
    assert drawn.returncode == 2 and drawn.stdout == "" and not (tmp_path / "none.png").exists()
    assert drawn.stderr.count("\n") == 1 and "onnx/decoder.onnx has changed" in drawn.stderr


def test_a_record_is_read_back_and_shown_as_measured(bundle, tmp_path, monkeypatch, capfd):
    """`--device mac` runs the command, whatever machine that is on; here with its ONNX back end."""
    monkeypatch.setenv("EDGEGEN_SWIFT", shlex.join(COMMAND))
    record, page = tmp_path / "rows.jsonl", tmp_path / "rows.html"
    line = ["bench", "--device", "mac", "--bundle", bundle, "--backend", "onnx", "--runs", 5, "--seconds", 2]
    assert run([*map(str, line), "--record", str(record), "--report", str(page)]) == 0
    rows = records.read(record)
    assert [row["component"] for row in rows] == ["text_encoder", "transformer", "decoder", "picture"]
    for row in rows:
        same_summary(row)
        assert row["memory"]["peak_bytes"] > 2**20 and row["machine"]["processor"]
    shown = capfd.readouterr().out
    assert shown.count("measured") >= 4 and "picture on onnx" in page.read_text()
    assert run(["bench", "--import", str(record), "--record", str(tmp_path / "kept.jsonl"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["rows"] == rows == records.read(tmp_path / "kept.jsonl")


def same_summary(row: dict) -> None:
    """The statistics of a row are those of its runs."""
    expected = asdict(summarize(row["latency_ms"]["runs"]))
    for key, value in expected.items():
        assert row["latency_ms"][key] == pytest.approx(value, rel=1e-3, abs=2e-4), key
    assert row["source"] == "measured" and row["load_ms"] > 0 and row["first_ms"] > 0
