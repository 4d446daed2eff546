"""Folders of whole diffusers pipelines: one command exports them, one draws, and the picture is diffusers' own."""

import json

import check_bundle
import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from pipelines import PIPELINES, drawn_by_diffusers, save_pipeline, size_of

from edgegen.bundle import load_bundle
from edgegen.cli import run
from edgegen.errors import InputError
from edgegen.foreign import fitting
from edgegen.foreign.observe import observe
from edgegen.foreign.reads import Known, Reading, follow
from edgegen.verify import psnr

PICTURE_DB = 60.0  # of a picture of 8 bits: a step of one in a few pixels
FP16_DB = 35.0
TOKENS = 24


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipelines_folder_is_exported_and_draws_as_diffusers_does(name, tmp_path, capsys, monkeypatch):
    """PixArt's text encoder is made too large for the tier: it is left out, and drawing asks for the folder."""
    pipeline, folder, bundle = save_pipeline(name, tmp_path / name), str(tmp_path / name), tmp_path / "bundle"
    left = name in ("pixart", "qwen_image")
    monkeypatch.setattr(fitting, "memory_limit", lambda tier: 1000 if left else None)
    (width, height), tokens = size_of(name)
    size = ["--resolution", f"{width}x{height}", "--tokens", str(tokens)]
    asked = ["--checkpoint", folder, "--tier", "high-phone", "--backend", "onnx", *size, "--out", str(bundle)]
    assert run(["export", *asked, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    encoders = {n for n in pipeline.components if n.startswith("text_encoder")}
    exported = {row["component"] for row in made["components"]}
    assert exported == {"transformer", "vae"} | (set() if left else encoders)
    assert set(made["left_out"]) == (encoders if left else set()) and all(row["passed"] for row in made["verify"])

    if name == "flux2":  # its text encoder has 29 layers, and results after 9, 18 and 27 of them are read
        model = onnx.load(next((bundle / "onnx").glob("text_encoder*.onnx")), load_external_data=False)
        names = [weight.name for weight in model.graph.initializer]
        assert any("layers.26." in n for n in names) and not any("layers.27." in n or "lm_head" in n for n in names)

    described = load_bundle(bundle).manifest.pipeline
    assert described["class"] == type(pipeline).__name__ and check_bundle.check_pipeline(bundle, described) == []

    picture = tmp_path / "drawn.png"
    draw = ["generate", "a red cat", "--bundle", str(bundle), "--steps", "2", "--seed", "5", "--json"]
    draw += ["--out", str(picture)]
    if left:
        assert run(draw) == 2
        assert "text_encoder was left out" in capsys.readouterr().err
        draw += ["--checkpoint", folder]
    capsys.readouterr()
    assert run(draw) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["steps"] == 2 and not told["warnings"] and not told["truncated"]
    drawn = np.asarray(Image.open(picture).convert("RGB"), np.float32) / 255
    expected = drawn_by_diffusers(name, pipeline)
    assert expected.std() > 0.05
    assert psnr(expected, drawn, peak=1.0) >= PICTURE_DB
    (bundle / described["tokenizers"]["tokenizer"]["path"]).write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer/tokenizer.json has changed"):
        load_bundle(bundle)


@pytest.mark.parametrize(("name", "backend", "floor"), [("pixart", "coreml", FP16_DB), ("z_image", "executorch", 60.0)])
def test_other_back_ends_draw_as_diffusers_does(name, backend, floor, tmp_path, capsys):
    """And say it when latents leave what a decoder in fp16 was verified with, and when a prompt is cut."""
    pipeline, bundle = save_pipeline(name, tmp_path / name), tmp_path / "bundle"
    (width, height), tokens = size_of(name)
    asked = [
        "--checkpoint",
        str(tmp_path / name),
        "--tier",
        "high-phone",
        "--backend",
        backend,
        "--tokens",
        str(tokens),
    ]
    assert run(["export", *asked, "--resolution", f"{width}x{height}", "--out", str(bundle)]) == 0

    def draw(prompt: str) -> dict:
        capsys.readouterr()
        out = ["--out", str(tmp_path / "drawn.png"), "--json"]
        assert run(["generate", prompt, "--bundle", str(bundle), "--steps", "2", "--seed", "5", *out]) == 0
        return json.loads(capsys.readouterr().out)

    told = draw("a red cat")
    assert not told["warnings"] and not told["truncated"]
    drawn = np.asarray(Image.open(tmp_path / "drawn.png").convert("RGB"), np.float32) / 255
    assert psnr(drawn_by_diffusers(name, pipeline), drawn, peak=1.0) >= floor
    if name == "pixart":
        schedule = bundle / "pipeline" / "scheduler" / "scheduler_config.json"
        schedule.write_text(json.dumps(json.loads(schedule.read_text()) | {"beta_end": 0.02}))
        (warning,) = draw("a red cat")["warnings"]
        assert "latent of the vae reached" in warning and "fp16" in warning
        assert draw("a red cat and many more words than there are places for")["truncated"]


def test_what_a_pipeline_gives_and_reads_is_seen_without_weights(tmp_path):
    pipeline = save_pipeline("sd3", tmp_path)
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    seen = observe(tmp_path, (16, 16), TOKENS).networks
    assert set(seen["text_encoder"].reads.values()) == {"text_embeds", "hidden_states_1"}
    assert seen["text_encoder_3"].calls[0]["input_ids"].shape == (1, TOKENS)
    assert seen["transformer"].calls[0]["encoder_hidden_states"].shape == (1, 77 + TOKENS, 24)
    ids = [call["input_ids"] for call in seen["text_encoder"].calls]
    assert len(ids) > 1 and not torch.equal(ids[0], ids[1])
    encoder, call = pipeline.text_encoder, seen["text_encoder"].calls[0]
    with torch.no_grad():
        given = encoder(**call)
    for path, name in seen["text_encoder"].reads.items():
        expected = given["text_embeds"] if name == "text_embeds" else given.hidden_states[1]
        assert torch.equal(follow(given, path), expected)


def test_a_result_gives_what_is_read_of_it_and_nothing_else():
    class Output(dict):
        hidden_states = (torch.zeros(1), torch.ones(1))

    reads = {}
    result = Reading(Output(last=torch.zeros(2)), reads)
    assert result["last"].shape == (2,) and result.hidden_states[-1] == 1
    assert reads == {("last",): "last", ("hidden_states", -1): "hidden_states_1"}
    known = Known({("hidden_states", -1): torch.ones(1)})
    assert known.hidden_states[-1] == 1
    with pytest.raises(AttributeError, match="does not give hidden_states.0"):
        known.hidden_states[0]
    with pytest.raises(AttributeError):
        known.pooler_output  # noqa: B018
