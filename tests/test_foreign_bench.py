"""Bundles of other projects' networks in bench, recommend, inspect and the rest: done by name, or refused in a line."""

import json
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from pipelines import save_pipeline, size_of
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file
from test_bench import Fake, steady
from test_cli import refused

from edgegen import export_folder, export_module
from edgegen.apps.foreign import foreign_refusal
from edgegen.bench import records, session
from edgegen.bench.child import inputs_of, make_open
from edgegen.bench.session import BenchRequest, measure_host
from edgegen.bundle import load_bundle
from edgegen.cli import run
from edgegen.files import digest
from edgegen.foreign.drawing import count_runs, draw_once
from edgegen.foreign.pipeline import open_native, open_pipeline

PHONE = "iphone15pro"
NETWORKS = ["text_encoder", "transformer", "vae"]
SHORT = ["--runs", "3", "--seconds", "0.5", "--force"]
VECTORS = Path(__file__).parent / "vectors" / "foreign.json"


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    """A bundle of a tiny PixArt-Sigma: three networks on two back ends, and their pipeline."""
    folder = tmp_path_factory.mktemp("bench")
    save_pipeline("pixart", folder / "pixart")
    size, tokens = size_of("pixart")
    export_folder(folder / "pixart", backends=["onnx", "coreml"], resolution=size, tokens=tokens,
                  out=folder / "pipe", progress=False)  # fmt: skip
    return folder / "pipe"


@pytest.fixture(scope="module")
def lone(tmp_path_factory):
    """A bundle of a module of a user's own."""
    out = tmp_path_factory.mktemp("bench") / "lone"
    module = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16))
    export_module(module, {"input": torch.randn(1, 8, 16)}, backends=["onnx"], out=out, progress=False)
    return out


def told(capfd, *line):
    """What a command prints as JSON."""
    capfd.readouterr()
    assert run([*map(str, line), "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def without(pipe, network, out):
    """A copy of a bundle that lacks a network."""
    shutil.copytree(pipe, out)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["components"] = [a for a in manifest["components"] if a["name"] != network]
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


# ---- measured here --------------------------------------------------------------------------------------------------


def test_networks_are_measured_by_their_names_and_recorded(pipe, lone, tmp_path, capfd):
    record = tmp_path / "rows.jsonl"
    made = told(capfd, "bench", "--bundle", pipe, "--bundle", lone, "--record", record, *SHORT)
    rows = made["rows"]
    assert [row["component"] for row in rows] == [*NETWORKS, "network"] and records.read(record) == rows
    for row in rows:
        latency, memory = row["latency_ms"], row["memory"]
        assert row["source"] == "measured" and row["backend"] == "onnx" and not row["partial"]
        assert latency["n"] >= 3 and all(0 < ms < math.inf for ms in (*latency["runs"], latency["p50"]))
        assert row["load_ms"] > 0 and memory["peak_over_base_bytes"] > 0 and memory["predicted"]["predicted_bytes"] > 0
        (artifact,) = row["artifacts"]
        assert artifact["path"] == f"onnx/{row['component']}.onnx"
    (note,) = made["notes"]
    assert "picture was not measured" in note and "--component picture" in note


def test_they_are_run_on_the_inputs_of_their_first_case(pipe):
    bundle = load_bundle(pipe)
    for name, backend in bundle.networks:
        cases = load_file(pipe / "cases" / f"{name}.safetensors")
        feed = inputs_of(bundle, bundle.programs(name, backend))
        assert {s.name: s.dtype for s in bundle.programs(name, backend)[0].inputs} == {
            key: str(value.dtype) for key, value in feed.items()
        }
        assert feed.keys() == {key.removeprefix("0.in.") for key in cases if key.startswith("0.in.")} and feed
        assert all(np.array_equal(value, cases[f"0.in.{key}"].astype(value.dtype)) for key, value in feed.items())
        if backend == "onnx":
            made = make_open(bundle, backend, name)()()
            assert all(np.allclose(value, cases[f"0.out.{key}"], atol=1e-4) for key, value in made.items())


def test_a_picture_is_drawn_where_it_is_asked_for_and_runs_are_counted_without_weights(pipe, tmp_path):
    bundle, counts = load_bundle(pipe), Counter()

    def counting(bundle, name, backend):
        opened = open_native(bundle, name, backend)
        return lambda feed: counts.update([name]) or opened(feed)

    draw_once(open_pipeline(bundle, "onnx", open_=counting), bundle)
    drawing = count_runs(bundle, "onnx")
    assert drawing.runs == counts == {"text_encoder": 2, "transformer": 40, "vae": 1} and drawing.steps == 20
    assert make_open(bundle, "onnx", "picture")()().picture.size == (16, 16)
    request = BenchRequest((pipe,), components=("picture",), record=tmp_path / "rows.jsonl")
    outcome = measure_host(request, make_runner=lambda candidate, _: Fake(candidate.label, steady(0)))
    (row,) = outcome.rows
    assert row["component"] == "picture" and row["settings"]["steps"] == 20 and not outcome.notes
    assert len(row["artifacts"]) == 3 and "predicted" not in row["memory"]  # diffusers' own code takes more


def test_a_bench_that_measured_nothing_says_so(pipe, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(session, "candidates", lambda *_: [])
    assert run(["bench", "--bundle", str(pipe), "--record", str(tmp_path / "rows.jsonl")]) == 1
    assert "nothing was measured" in capfd.readouterr().err and not list(tmp_path.iterdir())


def test_the_swift_app_measures_our_own_alone(pipe, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("EDGEGEN_SWIFT", "/no/such/command")
    refused(capfd, ["bench", "--device", "mac", "--bundle", pipe], "PixArtSigmaPipeline", "edgegen-swift draws with")


# ---- predicted ------------------------------------------------------------------------------------------------------


def test_every_network_and_the_picture_are_predicted(pipe, capfd):
    rows = told(capfd, "bench", "--device", PHONE, "--bundle", pipe)["rows"]
    assert [(r["backend"], r["component"]) for r in rows] == [
        (backend, part) for backend in ("onnx", "coreml") for part in (*NETWORKS, "picture")
    ]
    assert all(row["source"] == "predicted" and row["memory"]["predicted_bytes"] > 0 for row in rows)
    for text, step, vae, picture in (rows[:4], rows[4:]):
        ms = [row["latency_ms"]["predicted"] for row in (text, step, vae, picture)]
        assert min(ms) > 0 and ms[3] == pytest.approx(2 * ms[0] + 40 * ms[1] + ms[2], abs=0.005)  # rounded to 0.0001
    advice = told(capfd, "recommend", "--device", PHONE, "--bundle", pipe, "--budget", "3s")
    assert {option["backend"] for option in advice["fitting"]} == {"onnx", "coreml"} and not advice["others"]
    assert all(o["time_of"] == "a picture" and o["runs"]["transformer"] == 40 for o in advice["fitting"])


def test_a_lone_network_is_judged_by_one_run(lone, capfd):
    (row,) = told(capfd, "bench", "--device", PHONE, "--bundle", lone)["rows"]
    (option,) = told(capfd, "recommend", "--device", PHONE, "--bundle", lone)["fitting"]
    assert row["component"] == "network" and option["time_of"] == "one run" and option["runs"] == {"network": 1}
    assert 0 < option["time_ms"]["predicted"] == pytest.approx(row["latency_ms"]["predicted"], abs=1e-4)
    assert run(["recommend", "--device", PHONE, "--bundle", str(lone), "--budget", "1s"]) == 0
    assert "1 s for one run" in capfd.readouterr().out


def test_a_picture_that_lacks_a_network_is_not_predicted(pipe, tmp_path, capfd):
    bundle = without(pipe, "text_encoder", tmp_path / "part")
    rows = told(capfd, "bench", "--device", PHONE, "--bundle", bundle, "--backend", "onnx")["rows"]
    assert [row["component"] for row in rows] == ["transformer", "vae", "picture"]
    assert rows[2]["latency_ms"] is None and rows[2]["memory"] is None and "text_encoder" in rows[2]["cannot_predict"]
    assert run(["recommend", "--device", PHONE, "--bundle", str(bundle), "--backend", "onnx"]) == 1
    assert "no text_encoder" in capfd.readouterr().out


# ---- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("app", ["ios", "android"])
def test_apps_refuse_them_by_name(pipe, lone, app, tmp_path, capfd):
    names = ("a pipeline, PixArtSigmaPipeline with PixArtTransformer2DModel", "DPM-Solver++", f"the {app} app",
             "edgegen's own networks", "edgegen generate")  # fmt: skip
    refused(capfd, ["app", app, "--bundle", pipe, "--out", tmp_path / "app"], *names)
    refused(capfd, ["app", app, "--bundle", lone, "--out", tmp_path / "app"], "a lone network, Sequential",
            "edgegen's own networks", "edgegen verify")  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_what_is_said_is_what_the_apps_say():
    """Of every manifest of the apps' own vectors whose version is 2: the names that must be told."""
    cases = [case for case in json.loads(VECTORS.read_text())["cases"] if '"format_version": 2,' in case["manifest"]]
    for case in cases:
        manifest = json.loads(case["manifest"])
        try:
            index = json.loads(case["index"] or "{}")
        except (ValueError, RecursionError):
            index = {}
        pipeline = manifest["pipeline"] if isinstance(manifest["pipeline"], dict) else {}
        error = foreign_refusal("b", "an app", pipeline, index if isinstance(index, dict) else {})
        assert all(words in str(error) for words in case["says"]), case["name"]
    assert len(cases) > 40


@pytest.mark.parametrize(("line", "says"), [
    (["bench", "--bundle", "PIPE", "--component", "unet"], ["'unet'", "text_encoder, transformer, vae, picture"]),
    (["bench", "--bundle", "LONE", "--component", "picture"], ["'picture'", "Known: network"]),
    (["bench", "--bundle", "PIPE", "--device", PHONE, "--component", "decoder"], ["'decoder'", "vae"]),
    (["bench", "--bundle", "PIPE", "--backend", "executorch"], ["'executorch'", "onnx, coreml"]),
    (["bench", "--bundle", "PIPE", "--backend", "coreml"], ["Core ML does not run", "onnx"]),
    (["bench", "--bundle", "PIPE", "--device", PHONE, "--backend", "executorch"], ["no executorch"]),
    (["bench", "--bundle", "PIPE", "--profile", "--component", "picture"], ["components"]),
    (["bench", "--bundle", "PIPE", "--device", "pixel8", "--adb"], ["PixArtSigmaPipeline", "the android app"]),
    (["bench", "--compare", "PIPE", "LONE"], ["no component in common"]),
    (["recommend", "--device", PHONE, "--bundle", "PIPE", "--backend", "executorch"], ["no executorch", "onnx"]),
    (["recommend", "--device", PHONE, "--checkpoint", "CHECKPOINT"], ["another project", "--bundle"]),
    (["verify", "PIPE", "--checkpoint", "CHECKPOINT"], ["the cases that it holds", "--checkpoint"]),
    (["verify", "PIPE", "--backend", "executorch"], ["'executorch'", "onnx"]),
    (["inspect", "PIPE", "--backend", "executorch"], ["'executorch'", "onnx"]),
    (["generate", "a cat", "--bundle", "PIPE", "--steps", "0"], ["steps 0", "1 to 1000"]),
    (["generate", "a cat", "--bundle", "PIPE", "--guidance", "nan"], ["guidance nan"]),
    (["generate", "a cat", "--bundle", "PIPE", "--backend", "torch"], ["its artifacts alone"]),
    (["generate", "a cat", "--bundle", "LONE"], ["networks and no pipeline"]),
    (["evaluate", "dpg", "--bundle", "PIPE", "--prompts", "PROMPTS", "--out", "out"], ["PixArtSigmaPipeline",
                                                                                     "edgegen evaluate"]),
])  # fmt: skip
def test_what_cannot_be_done_is_one_line(pipe, lone, line, says, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "1.txt").write_text("a cat")
    paths = {"PIPE": pipe, "LONE": lone, "CHECKPOINT": pipe.parent / "pixart", "PROMPTS": tmp_path / "prompts"}
    refused(capfd, [paths.get(word, word) for word in line], *says)
    assert [path.name for path in tmp_path.iterdir()] == ["prompts"]


@pytest.mark.parametrize(("change", "says"), [
    (lambda cases: {key: value for key, value in cases.items() if ".in." in key}, "case 0 is not of the inputs"),
    (lambda cases: {"x": cases["0.in.input"]}, "case x is not of the inputs"),
])  # fmt: skip
def test_cases_that_are_none_verify_nothing(lone, change, says, tmp_path, capfd):
    bundle = Path(shutil.copytree(lone, tmp_path / "lone"))
    cases, manifest = bundle / "cases" / "network.safetensors", json.loads((bundle / "manifest.json").read_text())
    save_file(change(load_tensors(cases)), cases)
    manifest["pipeline"]["networks"]["network"]["cases"] |= dict(zip(("sha256", "bytes"), digest(cases), strict=True))
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    refused(capfd, ["verify", bundle], "network.safetensors", says)


def test_inspect_tells_how_the_layout_was_found(pipe, capfd):
    layouts = told(capfd, "inspect", pipe, "--backend", "onnx")["layouts"]
    assert [layout["component"] for layout in layouts] == NETWORKS
    assert layouts[2]["unknown"] == {"aten.upsample_nearest2d.vec": 1} and layouts[1]["moves"] > 0
