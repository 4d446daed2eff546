"""`edgegen quantize`: what it writes, that it resumes to the byte, and what it refuses."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TIER, TINY, tiny_checkpoint

from edgegen import cli
from edgegen.bundle import load_bundle
from edgegen.errors import InputError
from edgegen.export import export
from edgegen.files import digest
from edgegen.model.checkpoint import load_checkpoint
from edgegen.plan import make_plan
from edgegen.quantize import plan as plans
from edgegen.quantize import request as requests
from edgegen.quantize import run as runs
from edgegen.quantize.integers import IntegerWeight, round_to_nearest
from edgegen.quantize.palette import Palette
from edgegen.quantize.request import QuantizeRequest
from edgegen.quantize.run import quantize
from edgegen.quantize.stored import stored_weights
from edgegen.quantize.trajectories import draw_points, encode_prompts, mixed_seed, sampling_of, velocity_error
from edgegen.quantize.tune import Tuning, tune_
from edgegen.target import load_tier

WIDTH = 1.0
PROMPTS = ("a red heart", "a cat")
TUNING = Tuning(steps=6, batch=4, warmup=2, held_out=8, check_every=3, save_s=0)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("source") / "tiny")


def request_of(source: Path, out: Path, **changes) -> QuantizeRequest:
    settings = dict(width=WIDTH, bits=5.0, prompts=PROMPTS, tuning=TUNING)
    return QuantizeRequest(load_checkpoint(source), out, **(settings | changes))


@pytest.fixture(scope="module")
def made(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "quantized"
    quantize(request_of(source, out))
    return out


def test_a_quantized_checkpoint_reads_as_its_palettes_say(made):
    checkpoint = load_checkpoint(made)
    weights = stored_weights(checkpoint)
    parameters = dict(checkpoint.transformer(WIDTH).named_parameters())
    plan = checkpoint.config.quantization.plan
    assert set(weights) == set(plan) and {4, 8} == set(plan.values())
    for name, weight in weights.items():
        assert isinstance(weight, Palette) and weight.bits == plan[name]
        assert torch.equal(parameters[name], weight.dense())
        assert parameters[name].unique().numel() <= 2 ** plan[name]
    stored = load_file(made / "transformer.safetensors")
    assert not set(weights) & set(stored)  # no float copy beside a palette
    assert {str(stored[name].dtype) for name in parameters if name not in weights} == {"torch.float16"}


def test_the_average_is_reached_and_never_passed(made):
    config = load_checkpoint(made).config.quantization
    weights = stored_weights(load_checkpoint(made)).values()
    elements = sum(torch.Size(weight.shape).numel() for weight in weights)
    stored = load_file(made / "transformer.safetensors")
    counted = sum(t.nbytes for name, t in stored.items() if re.search(r"\.(palette|indices|scale)$", name))
    assert config.bits == pytest.approx(8 * counted / elements, abs=1e-5)
    assert 4.98 <= config.bits <= config.bits_asked == 5.0


def test_tuning_moves_only_what_is_not_quantized_and_helps(made, source):
    report = json.loads((made / "report.json").read_text())
    assert report["velocity"]["error_after"] < report["velocity"]["error_before"]
    assert report["tuning"]["error_after"] < report["tuning"]["error_before"]
    before, after = load_checkpoint(source).transformer(WIDTH), load_checkpoint(made).transformer(WIDTH)
    plan = load_checkpoint(made).config.quantization.plan
    moved = {
        name
        for (name, a), (_, b) in zip(before.named_parameters(), after.named_parameters(), strict=True)
        if name not in plan and not torch.equal(a, b)
    }
    assert any("table" in name for name in moved) and any(name.endswith("bias") for name in moved)
    assert any("norm" in name for name in moved)


def test_the_report_is_one_file_without_network(made):
    page = (made / "report.html").read_text()
    assert not re.search(r"(?:src|href)\s*=\s*['\"]?(?!data:)[a-z]+:", page) and "<script" not in page
    assert page.count("<img") == 3 * 4 and page.count("<svg") >= 4
    report = json.loads((made / "report.json").read_text())
    assert len(report["layers"]) == page.count("middle.0.ffn.up") + len(report["layers"]) - 1
    assert {point["error"] for point in report["curve"]} and report["curve"][0]["error"] > report["curve"][-1]["error"]


class Stop(Exception):
    pass


def test_a_run_stopped_at_every_stage_ends_in_the_same_bytes(made, source, tmp_path):
    """Stopped as each stage begins, and in the middle of tuning; each time resumed."""
    out, lines = tmp_path / "quantized", []

    def stop_at_new_line(line: str) -> None:
        if line not in lines:
            lines.append(line)
            raise Stop

    def stop_in_tuning(done: int, of: int) -> None:
        if of == TUNING.steps and done == 3 and "middle" not in lines:
            lines.append("middle")
            raise Stop

    for _ in range(12):
        try:
            quantize(request_of(source, out, resume=True), stop_at_new_line, stop_in_tuning)
            break
        except Stop:
            assert not out.exists()
    assert len(lines) == 8 and "middle" in lines
    assert digest(out) == digest(made)
    assert not list(tmp_path.glob(".quantized*"))
    assert quantize(request_of(source, out, resume=True)) == json.loads((made / "report.json").read_text())


def test_a_killed_process_is_resumed_to_the_same_bytes(source, tmp_path):
    """SIGKILL while tuning; the folder is not there before it is whole."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    command = [
        sys.executable,
        "-m",
        "edgegen",
        "quantize",
        "--checkpoint",
        str(source),
        "--bits",
        "5",
        "--calibration",
        str(prompts),
        "--tune-steps",
        "150",
        "--tune-batch",
        "2",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([*command, "--out", str(killed)], env=environment, stderr=subprocess.DEVNULL)
    stage = tmp_path / ".killed.unfinished" / "weights.safetensors"
    while not stage.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not killed.exists()
    refused = subprocess.run([*command, "--out", str(killed)], env=environment, capture_output=True, text=True)
    assert refused.returncode == 2 and "--resume" in refused.stderr and not killed.exists()
    for out, more in ((killed, ["--resume"]), (whole, [])):
        subprocess.run([*command, "--out", str(out), *more], env=environment, check=True, stderr=subprocess.DEVNULL)
    assert digest(killed) == digest(whole)


def test_resuming_with_other_settings_is_refused(source, tmp_path):
    def stop(line: str) -> None:
        if line.startswith("giving"):
            raise Stop

    with pytest.raises(Stop):
        quantize(request_of(source, tmp_path / "q"), stop)
    with pytest.raises(InputError, match="another bits"):
        quantize(request_of(source, tmp_path / "q", bits=6.0, resume=True))
    assert not (tmp_path / "q").exists()


def test_a_tuning_resumed_midway_is_the_unbroken_one(source, tmp_path):
    checkpoint = load_checkpoint(source)
    teacher, conditions = checkpoint.transformer(WIDTH), encode_prompts(checkpoint, PROMPTS)
    name = "middle.0.ffn.up.weight"

    def student():
        model = checkpoint.transformer(WIDTH)
        model.get_parameter(name).data = round_to_nearest(model.get_parameter(name), 4, 32).dense()
        return model

    def stop(done: int, of: int) -> None:
        if done == 4:
            raise Stop

    whole = tune_(student(), teacher, [name], conditions, sampling_of(checkpoint), TUNING)
    path = tmp_path / "state.safetensors"
    with pytest.raises(Stop):
        tune_(student(), teacher, [name], conditions, sampling_of(checkpoint), TUNING, path, stop)
    resumed = tune_(student(), teacher, [name], conditions, sampling_of(checkpoint), TUNING, path)
    assert whole.curve == resumed.curve
    assert all(torch.equal(whole.values[key], resumed.values[key]) for key in whole.values)
    with pytest.raises(InputError, match="other settings"):
        tune_(student(), teacher, [name], conditions, sampling_of(checkpoint), replace(TUNING, batch=5), path)


def test_points_are_a_function_of_the_seed_and_lie_on_trajectories(source):
    checkpoint = load_checkpoint(source)
    teacher, conditions, sampling = (
        checkpoint.transformer(WIDTH),
        encode_prompts(checkpoint, PROMPTS),
        sampling_of(checkpoint),
    )
    first, same, other = (draw_points(teacher, conditions, sampling, 9, mixed_seed("x", n)) for n in (0, 0, 1))
    assert torch.equal(first.latent, same.latent) and not torch.equal(first.latent, other.latent)
    assert len(first) == 9 and set(first.t.tolist()) <= set(torch.tensor(sampling.sigmas[:-1]).tolist())
    assert velocity_error(teacher, first, conditions) < 1e-10
    assert mixed_seed("held out", 0) != mixed_seed("report")


def test_a_large_network_is_measured_by_gradients_on_smaller_pictures(source, tmp_path, monkeypatch):
    """What is large is patched; the plan costs about what one of a pass a layer and candidate does."""
    monkeypatch.setattr(requests, "LARGE", 1000)
    monkeypatch.setattr(requests, "SMALL", 32)
    asked = request_of(source, tmp_path / "large", tuning=replace(TUNING, steps=0))
    assert asked.measure == "gradient" and asked.resolution == (32, 32) != TINY.resolution
    report = quantize(asked)
    assert report["measure"] == "gradient" and report["pictures"] == []
    assert all(set(layer["errors"]) == {"4", "8"} for layer in report["layers"])
    assert {layer["bits"] for layer in report["layers"]} == {4, 8}
    assert report["velocity"]["error_before"] == report["velocity"]["error_after"] > 0

    def stop(done: int, of: int) -> None:
        if (done, of) == (5, plans.GRADIENT_POINTS):
            raise Stop

    again = replace(asked, out=tmp_path / "again", resume=True)
    with pytest.raises(Stop):
        quantize(again, advance=stop)
    assert json.loads((again.work / "gradients.json").read_text())["points"] == 5
    quantize(again)
    assert digest(again.out) == digest(asked.out)
    exact = quantize(replace(asked, out=tmp_path / "exact", measure="velocity"))
    assert report["velocity"]["error_after"] < 1.5 * exact["velocity"]["error_after"]


def test_a_network_that_memory_cannot_hold_is_refused(source, tmp_path, monkeypatch):
    monkeypatch.setattr(requests, "available_bytes", lambda: 2**30)
    with pytest.raises(InputError, match=r"takes about 1.0 GiB of memory, 1.0 GiB are available"):
        quantize(request_of(source, tmp_path / "q"))
    assert list(tmp_path.iterdir()) == []


def test_quantize_takes_presets_and_tiers(tmp_path, capsys):
    both = ["quantize", "--tier", "full", "--width", "1", "--out", str(tmp_path / "q")]
    assert cli.run(both) == 2 and "--width and --tier exclude each other" in capsys.readouterr().err
    assert cli.run(["quantize", "--preset", "papre", "--out", str(tmp_path / "q")]) == 2
    assert "Did you mean paper?" in capsys.readouterr().err and not (tmp_path / "q").exists()


@pytest.mark.parametrize("method", ["int8", "int4-group"])
def test_integer_methods_start_from_the_weights(source, tmp_path, method):
    out = tmp_path / method
    report = quantize(request_of(source, out, method=method, tuning=replace(TUNING, steps=0)))
    weights = stored_weights(load_checkpoint(out))
    original = dict(load_checkpoint(source).transformer(WIDTH).named_parameters())
    for name, weight in weights.items():
        assert isinstance(weight, IntegerWeight)
        step = weight.scales.float().repeat_interleave(weight.shape[1] // weight.scales.shape[1], 1)
        assert ((weight.dense() - original[name].reshape(weight.shape)).abs() <= 0.502 * step).all()
    assert {weight.bits for weight in weights.values()} == {8 if method == "int8" else 4}
    assert report["velocity"]["error_before"] == report["velocity"]["error_after"]


# export


def tier_of(folder: Path, width: float) -> Path:
    path = folder / f"tier-{width}.toml"
    onnx = 'attention = "batched"\nprecision = "float32"\nfloor_db = 100.0\n'
    path.write_text(TIER.replace("width = 0.5", f"width = {width}").replace(onnx, onnx + 'activations = "int8"\n'))
    return path


def test_export_takes_the_checkpoint_and_says_its_bits(made, tmp_path):
    checkpoint, tier = load_checkpoint(made), load_tier(str(tier_of(tmp_path, WIDTH)))
    plan = make_plan(checkpoint, tier, ["onnx"], ["transformer"], out=tmp_path / "bundle")
    result = export(plan)
    manifest = load_bundle(tmp_path / "bundle").manifest
    (artifact,) = manifest.components
    assert manifest.bits == checkpoint.config.quantization.bits
    assert artifact.options and manifest.floors_db["onnx/transformer"] == 38.0
    assert result.rows[0].passed and 38 <= result.rows[0].psnr_db
    assert plan.parameters < artifact.resident_bytes < 4 * plan.parameters  # int8, where float32 would take 4 bytes


def test_export_of_another_width_is_refused(made, tmp_path):
    with pytest.raises(InputError, match="quantized at width 1; it has no 0.5") as caught:
        make_plan(load_checkpoint(made), load_tier(str(tier_of(tmp_path, 0.5))), out=tmp_path / "bundle")
    assert "--width 0.5" in caught.value.remedy and not (tmp_path / "bundle").exists()


def test_export_refuses_bits_a_back_end_cannot_pack(source, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"format_version": 1, "layers": {"middle.0.ffn.up.weight": {"bits": 3}}}))
    quantize(request_of(source, tmp_path / "q", plan=plan, tuning=replace(TUNING, steps=0)))
    tier = load_tier(str(tier_of(tmp_path, WIDTH)))
    for backend, says in (("onnx", "ONNX packs"), ("coreml", "iOS17 packs")):
        with pytest.raises(InputError, match=says):
            make_plan(load_checkpoint(tmp_path / "q"), tier, [backend], out=tmp_path / "bundle")
    make_plan(load_checkpoint(tmp_path / "q"), tier, ["executorch"], out=tmp_path / "bundle")


# bad input


def refused(arguments: list[str], capsys, says: str) -> None:
    """The command fails with exit code 2 and one line that says why."""
    assert cli.run(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and says in error[0], error


def command(source: Path, out: Path, *more: str) -> list[str]:
    return ["quantize", "--checkpoint", str(source), "--out", str(out), "--tune-steps", "0", *more]


@pytest.mark.parametrize(("more", "says"), [
    (["--bits", "3.5"], "cannot be reached: candidates 4, 8 with their palettes reach 4."),
    (["--bits", "12"], "to 8.554 on average"),
    (["--bits", "nan"], "must be above 0"),
    (["--candidates", "4,5"], "5 bits is none of"),
    (["--candidates", "four"], "not a list of whole numbers"),
    (["--method", "palete"], "Did you mean palette?"),
    (["--method", "int8", "--bits", "4"], "--bits goes with --method palette"),
    (["--measure", "outputs"], "Did you mean output?"),
    (["--width", "0.7"], "0.7"),
    (["--calibration", "no/such.txt"], "no/such.txt"),
    (["--plan", "no/such.json"], "no/such.json"),
    (["--tune-steps", "-1"], "tuning steps -1"),
])  # fmt: skip
def test_bad_options_are_one_line(source, tmp_path, capsys, more, says):
    refused(command(source, tmp_path / "out", *more), capsys, says)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("content", "says"), [(b"", "no prompt"), (b"\n \n", "no prompt"), (b"\xff\xfe\x00", "UTF-8")])
def test_bad_calibration_is_one_line(source, tmp_path, capsys, content, says):
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    refused(command(source, tmp_path / "out", "--calibration", str(path)), capsys, says)
    assert list(tmp_path.iterdir()) == [path]


def test_a_plan_with_a_layer_that_does_not_exist_is_one_line(made, source, tmp_path, capsys):
    plan = json.loads((made / "plan.json").read_text())
    plan["layers"]["middle.0.ffn.upp.weight"] = plan["layers"].pop("middle.0.ffn.up.weight")
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    refused(command(source, tmp_path / "out", "--plan", str(path)), capsys, "Did you mean middle.0.ffn.up.weight?")
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_already_quantized_is_one_line(made, tmp_path, capsys):
    refused(command(made, tmp_path / "out"), capsys, "already quantized")
    assert not list(tmp_path.iterdir())


def damaged(source: Path, folder: Path, change) -> Path:
    """A copy of a checkpoint with one weight changed."""
    import shutil

    shutil.copytree(source, folder)
    tensors = load_file(folder / "transformer.safetensors")
    change(tensors["middle.0.ffn.up.weight"])
    save_file(tensors, folder / "transformer.safetensors")
    return folder


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_one_line(source, tmp_path, capsys, value):
    bad = damaged(source, tmp_path / "bad", lambda weight: weight[0].fill_(value))
    refused(command(bad, tmp_path / "out"), capsys, "middle.0.ffn.up.weight")
    assert list(tmp_path.iterdir()) == [bad]


def test_weights_of_few_values_are_stored_as_they_are(source, tmp_path):
    """A constant weight, and one of fewer values than clusters."""
    few = torch.tensor([-0.5, 0.25, 0.5])
    bad = damaged(
        source, tmp_path / "few", lambda weight: weight.copy_(few[torch.arange(weight.numel()) % 3].view(weight.shape))
    )
    constant = damaged(bad, tmp_path / "constant", lambda weight: weight.fill_(0.25))
    for folder in (bad, constant):
        out = tmp_path / f"{folder.name}-out"
        quantize(request_of(folder, out, tuning=replace(TUNING, steps=0)))
        name = "middle.0.ffn.up.weight"
        original = load_checkpoint(folder).transformer(WIDTH).get_parameter(name)
        torch.testing.assert_close(stored_weights(load_checkpoint(out))[name].dense(), original, atol=2e-3, rtol=0)


def test_a_damaged_quantized_checkpoint_is_refused(made, tmp_path):
    import shutil

    for number, (change, says) in enumerate(
        (
            (lambda t, name: t.pop(f"{name}.indices"), "lacks"),
            (lambda t, name: t.update({f"{name}.palette": t[f"{name}.palette"][:-1].clone()}), "elements"),
            (lambda t, name: t.update({"stranger": torch.zeros(1)}), "unexpected stranger"),
        )
    ):
        folder = tmp_path / str(number)
        shutil.copytree(made, folder)
        tensors = load_file(folder / "transformer.safetensors")
        change(tensors, "middle.0.ffn.up.weight")
        save_file(tensors, folder / "transformer.safetensors")
        with pytest.raises(InputError, match=says):
            load_checkpoint(folder).transformer(WIDTH)


def test_a_plan_in_the_output_can_be_edited_and_given_back(made, source, tmp_path):
    plan = json.loads((made / runs.PLAN).read_text())
    del plan["layers"]["middle.0.ffn.up.weight"]
    plan["layers"]["middle.0.ffn.down.weight"]["bits"] = 2
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    quantize(request_of(source, tmp_path / "q", plan=path, tuning=replace(TUNING, steps=0)))
    chosen = load_checkpoint(tmp_path / "q").config.quantization.plan
    assert "middle.0.ffn.up.weight" not in chosen and chosen["middle.0.ffn.down.weight"] == 2
