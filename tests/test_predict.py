"""Prediction: counts against independent ones, the fit recovers what made its points, nothing is shown as measured."""

import json
import re
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY, tiny_checkpoint
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.predictor import points as published
from benchmarks.predictor.fit import FAMILIES, fit_all
from benchmarks.predictor.models import FOLDER, OPERATIONS, load
from benchmarks.predictor.models import published as count_published
from edgegen.backends.registry import read_graph
from edgegen.bench.count_module import program_of_component, program_of_module
from edgegen.bench.fit import Family, Point, cost_matrix, fit, interval, leave_one_out, wrong_orders
from edgegen.bench.memory import Memory, live_peak, pipeline_memory
from edgegen.bench.predict import CannotPredict, Prediction, load_parameters, predict, predict_unit
from edgegen.bench.recommend import advise, options_of_config, parse_bytes, parse_seconds
from edgegen.cli import run
from edgegen.errors import InputError
from edgegen.files import file_digest
from edgegen.graph.operations import Operation, Program, Tensor, Totals
from edgegen.model.config import DiTConfig
from edgegen.model.dit import DiT
from edgegen.model.elastic import skeleton
from edgegen.rewrite.build import transformer_component
from edgegen.rewrite.component import Form
from edgegen.target import list_tiers, load_device, targets_folder

ISSUE = {"A": (2202, 7.5), "B": (1288, 4.0), "C": (1014, 1.85), "D": (1441, 2.2)}  # G multiply-adds, G scores
SMALL = Totals(10**12, 10**9, 2 * 10**9, 10**9, ((4096 * 4096, 10**9),), 1000)


# ---- counts ---------------------------------------------------------------------------------------------------------


class Mixed(torch.nn.Module):
    """Products of every kind that networks have."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = torch.nn.Conv2d(6, 8, 3, groups=2), torch.nn.Linear(8, 12)

    def forward(self, x):
        y = self.linear(self.conv(x).flatten(2).transpose(1, 2))  # (B, N, 12)
        scores = torch.einsum("bnc,bmc->bnm", y, y).softmax(-1)
        return scores @ y


def test_multiply_adds_are_half_of_pytorchs_own_count():
    model, x = Mixed().to("meta"), torch.empty(2, 6, 9, 9, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(x)
    totals = program_of_module(model, [x]).totals
    assert 2 * totals.macs == counter.get_total_flops()
    assert totals.weights == sum(p.numel() for p in model.parameters())
    assert totals.scores == ((49 * 49, 2 * 49 * 49),)


def test_the_fused_attention_counts_like_the_composed_one():
    class Fused(torch.nn.Module):
        def forward(self, q, k, v):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    class Composed(torch.nn.Module):
        def forward(self, q, k, v):
            return (q @ k.transpose(-1, -2)).softmax(-1) @ v

    inputs = [torch.empty(1, 4, n, 16, device="meta") for n in (64, 32, 32)]
    fused, composed = (program_of_module(m, inputs).totals for m in (Fused(), Composed()))
    assert (fused.macs, fused.scores) == (composed.macs, composed.scores) == (2 * 4 * 64 * 32 * 16, ((2048, 8192),))
    assert fused.activations == composed.activations


@pytest.mark.parametrize("form", [Form("batched", operations="fused"), Form("split"), Form("split", query_chunk=4)])
def test_all_forms_ask_for_the_same(form):
    config = DiTConfig(
        hidden=64,
        head_dim=8,
        depths=(1, 2, 1),
        blocks=4,
        queries_per_kv=2,
        cross_kv_heads=2,
        text_dim=16,
        in_channels=4,
        grid=(16, 16),
        time_features=16,
    )
    batched = program_of_component(transformer_component(skeleton(config), (32, 32), 8, Form("batched"))).totals
    totals = program_of_component(transformer_component(skeleton(config), (32, 32), 8, form)).totals
    assert totals.macs == pytest.approx(batched.macs, rel=0.05)
    assert totals.score_elements == batched.score_elements


def test_the_ladder_counts_what_the_issue_says():
    """Ours are 0 to 2 % more: rotation as a product, resampling and the outer skip are counted too."""
    for step, (macs, scores) in ISSUE.items():
        totals = load()[f"ladder-{step}"]
        tokens, half = 4096, 1024
        layers = (28, 0) if step == "A" else (14, 14) if step in "BC" else (18, 10)
        cross = 16 * 77 * (layers[0] * tokens + layers[1] * half)  # scores of cross-attention, which theirs leave out
        assert 1 <= totals.macs / 1e9 / macs < 1.025, step
        assert (totals.score_elements - cross) / 1e9 == pytest.approx(scores, rel=0.03), step


def test_recorded_counts_are_those_of_the_code():
    """The networks that count in a second; the recorded ones of the paper have thousands of heads."""
    pytest.importorskip("diffusers", reason="needs the extra [train]")
    for name in ("sd15-unet-512", "sd15-vae-decoder-512"):
        assert count_published(FOLDER / "configs" / f"{name}.json") == load()[name]


@pytest.mark.parametrize(
    "backend, form",
    [("coreml", Form("split")), ("onnx", Form("batched", operations="fused")), ("executorch", Form("batched"))],
)
def test_an_artifact_asks_for_what_its_module_asks_for(backend, form, tmp_path):
    config = DiTConfig(
        hidden=64,
        head_dim=16,
        depths=(1,),
        ffn_ratios=(2,),
        sparse=False,
        cross_kv_heads=2,
        text_dim=16,
        in_channels=4,
        grid=(4, 4),
        time_features=16,
        long_skips=False,
    )
    component = transformer_component(DiT(config).eval(), (8, 8), 8, form)
    path = tmp_path / {"coreml": "a.mlpackage", "onnx": "a.onnx", "executorch": "a.pte"}[backend]
    import_module(f"edgegen.emit.{backend}").write(component, path)
    artifact = read_graph(backend, path)
    module = program_of_component(component)
    assert artifact.totals.macs == pytest.approx(module.totals.macs, rel=0.03)
    assert artifact.totals.score_elements == module.totals.score_elements
    assert artifact.totals.weights == pytest.approx(module.totals.weights, rel=0.1)
    width = 2 if backend == "coreml" else 4  # but for a few integers, such as shapes
    assert artifact.totals.weight_bytes == pytest.approx(width * artifact.totals.weights, rel=0.02)
    assert live_peak(artifact) > 0


# ---- the model and its fit ------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 0.9), st.floats(0.5, 5), st.floats(0.5, 5), st.integers(0, 2**31))
def test_a_fit_recovers_the_parameters_that_made_its_points(fraction, weights, spill, seed):
    rng, family = np.random.default_rng(seed), Family("Neural Engine", (0, 1, 2), 32e6)
    points = []
    for name in ("iphone12", "iphone13", "iphone15pro", "ipadprom1", "ipadprom4"):
        for _ in range(2):
            totals = Totals(
                int(rng.uniform(1, 5) * 1e11),
                1,
                int(rng.uniform(1, 8) * 1e9),
                1,
                ((4096 * 4096, int(rng.uniform(1, 9) * 1e9)),),
                1,
            )
            points.append(Point(name, load_device(name), "npu", "m", "float16", totals, 1.0, True))
    truth = np.array([1 / fraction, weights, spill])
    points = [
        replace(p, milliseconds=float(t)) for p, t in zip(points, cost_matrix(points, family) @ truth, strict=True)
    ]
    assert fit(points, family) == pytest.approx(truth, rel=1e-3)
    assert max(item.error for item in leave_one_out(points, family)) < 1e-3


def test_a_left_out_point_does_not_touch_its_own_prediction():
    points = [p for p in published.read_points("apple.csv") if p.family == "Neural Engine"]
    family = FAMILIES[0]
    before = leave_one_out(points, family)[3].predicted
    points[3] = replace(points[3], milliseconds=100 * points[3].milliseconds)
    assert leave_one_out(points, family)[3].predicted == before


def test_limits_of_the_published_points_hold():
    sets = {name: [p for file in files for p in published.read_points(file)] for name, files in published.SETS.items()}
    able = {name: published.predictable(points)[0] for name, points in sets.items()}
    _, left = fit_all([p for points in able.values() for p in points])
    errors = {item.point.label: item.error for items in left.values() for item in items}
    for name, limit in (("Apple", 0.25), ("Android", 0.35)):
        found = [errors.get(point.label, np.inf) for point in sets[name]]  # no prediction: infinitely wrong
        assert np.median(found) <= limit, name
    for family in FAMILIES:
        members = [p for points in able.values() for p in points if p.family == family.name and p.fitted]
        assert wrong_orders(members, list(cost_matrix(members, family) @ fit(members, family))) == []


def test_the_ladder_is_in_the_papers_order_even_with_the_step_that_is_outside():
    phone, totals = load_device("iphone16pm"), load()
    times = {step: predict(totals[f"ladder-{step}"].compressed(16), phone, "coreml").milliseconds for step in "ABCD"}
    assert times["A"] > times["B"] > times["D"] > times["C"]
    assert times["A"] < 2 * times["B"]  # its 28 layers are B's 14 outer ones twice: no sum over layers gives 2000 ms


def test_shipped_parameters_are_those_of_the_committed_data():
    from edgegen.bench.predict import PARAMETERS

    record = json.loads(PARAMETERS.read_text())
    for name, sha in record["data"].items():
        path = OPERATIONS if name == OPERATIONS.name else published.FOLDER / "published" / name
        assert file_digest(path)[0] == sha, f"{name} changed: run python -m benchmarks.predictor.fit"


def test_wrong_orders_sees_a_swap_beyond_the_margin_alone():
    device = load_device("iphone13")
    a, b, c = (Point(n, device, "npu", n, "float16", SMALL, ms, True) for n, ms in (("a", 100), ("b", 110), ("c", 200)))
    assert wrong_orders([a, b, c], [5, 4, 6]) == []
    assert wrong_orders([a, b, c], [5, 4, 3]) == [("a", "c"), ("b", "c")]


def test_intervals_hold_one():
    assert interval([0.5]) == (0.5, 1.0)
    low, high = interval([0.6, 0.8, 0.9, 1.0, 1.1, 1.3, 1.4, 1.5, 1.6])
    assert low == 0.6 and high == 1.6


# ---- what is shown --------------------------------------------------------------------------------------------------


def test_a_prediction_is_never_shown_without_the_word_and_the_interval():
    prediction = predict(SMALL, load_device("iphone13"), "coreml")
    for text in (
        str(prediction),
        f"{prediction}",
        f"{prediction:.1f}",
        f"{prediction!r}",
        f"{prediction.times(4)}",
        str(prediction + prediction),
        str([prediction]),
    ):
        assert re.search(r"predicted [\d.]+ m?s \([\d.]+ m?s to [\d.]+ m?s; Neural Engine, median error", text), text
    assert prediction.low < prediction.milliseconds < prediction.high
    assert prediction.to_dict()["source"] == "predicted"
    memory = Memory(10**6, 0, 10**6, 0)
    assert all("predicted" in text and " to " in text for text in (str(memory), f"{memory:d}"))


def test_a_sum_takes_the_worse_error():
    good, bad = (Prediction(1.0, 0.5, 2.0, f, e, 9) for f, e in (("x", 0.1), ("y", 0.4)))
    assert (good + bad).family_error == 0.4 and (good + bad).high == 4.0
    assert (good + replace(bad, family_error=None)).family_error is None


def test_what_cannot_be_predicted_is_said():
    with pytest.raises(CannotPredict, match="npu of iPhone 17 is not known"):
        predict(SMALL, load_device("iphone17"), "coreml")
    with pytest.raises(CannotPredict, match="no Core ML"):
        predict(SMALL, load_device("pixel8"), "coreml")
    with pytest.raises(CannotPredict, match="no published latency"):
        predict_unit(SMALL, load_device("pixel10"), "npu", "int8")
    with pytest.raises(CannotPredict, match="bandwidth"):
        predict(SMALL, replace(load_device("iphone13"), bandwidth_gbs=None), "coreml")
    with pytest.raises(InputError, match="Did you mean coreml"):
        predict(SMALL, load_device("iphone13"), "corml")


def test_a_network_far_smaller_than_the_published_ones_is_said_to_be():
    tiny = replace(SMALL, macs=10**7)
    assert "lower bound" in str(predict(tiny, load_device("pixel8"), "onnx"))
    assert "lower bound" not in str(predict(SMALL, load_device("iphone13"), "coreml"))


def test_a_family_of_one_point_has_no_error_and_the_widest_interval():
    families = load_parameters()
    assert families["CPU"].error is None
    assert families["CPU"].low == min(f.low for f in families.values())
    assert "one published point" in str(predict(SMALL, load_device("pixel8"), "onnx"))


# ---- memory ---------------------------------------------------------------------------------------------------------


def chain(types, sizes):
    tensors = {f"t{i}": Tensor(size, size) for i, size in enumerate(sizes)}
    operations = tuple(Operation(kind, (f"t{i}",), (f"t{i + 1}",), int(kind == "mm")) for i, kind in enumerate(types))
    return Program(operations, tensors, ("t0",), (f"t{len(types)}",))


@pytest.mark.parametrize("types, sizes, peak", [
    (("mm", "mm"), (10, 100, 30), 130),  # 100 and 30 live together
    (("mm", "relu", "mm"), (10, 100, 100, 30), 130),  # relu writes over its input
    (("mm", "reshape", "mm"), (10, 100, 100, 30), 130),  # a view is no tensor
    (("mm", "mm", "mm"), (10, 100, 100, 30), 200),
])  # fmt: skip
def test_liveness_of_a_chain(types, sizes, peak):
    assert live_peak(chain(types, sizes)) == peak


def test_a_skip_keeps_its_tensor_alive():
    tensors = {name: Tensor(size, size) for name, size in (("x", 10), ("a", 50), ("b", 40), ("c", 5), ("y", 5))}
    program = Program(
        (
            Operation("mm", ("x",), ("a",), 1),
            Operation("mm", ("a",), ("b",), 1),
            Operation("mm", ("b",), ("c",), 1),
            Operation("cat", ("c", "a"), ("y",)),
        ),
        tensors,
        ("x",),
        ("y",),
    )
    assert live_peak(program) == 95  # a, b and c: the skip holds a


def test_a_pipeline_frees_the_text_encoder():
    text, transformer, decoder = Memory(100, 50, 5, 1), Memory(60, 0, 20, 1), Memory(30, 0, 40, 1)
    parts = {"text_encoder": text, "transformer": transformer, "decoder": decoder}
    assert pipeline_memory(parts).peak == 151  # opening the text encoder, more than 1 + 60 + 30 + 40
    assert pipeline_memory(parts, free_text_encoder=False).peak == 1 + 190 + 40
    assert pipeline_memory({"transformer": transformer, "decoder": decoder}).peak == 131


# ---- recommend ------------------------------------------------------------------------------------------------------


def test_a_recommendation_prefers_quality_that_fits():
    config = replace(TINY, transformer=replace(TINY.transformer, widths=(0.5, 1.0)))
    options = options_of_config(config, list_tiers(), load_device("iphone13"))
    assert {o.width for o in options} == {0.5, 1.0}
    free = advise(options, load_device("iphone13"), None, None)
    assert free.fitting[0].width == 1.0
    least = min(o.memory.peak for o in options if o.width == 1.0)
    tight = advise(options, load_device("iphone13"), None, least - 1)
    assert all(o.width == 0.5 for o in tight.fitting) and tight.others
    for option in tight.others:
        assert all("predicted" in reason for reason in option.too_much(None, least - 1))


def test_the_command_names_the_best_the_runner_up_and_why_not(capfd, tmp_path):
    config = replace(TINY, transformer=replace(TINY.transformer, widths=(0.5, 1.0)))
    tiny_checkpoint(tmp_path / "checkpoint", config)
    line = ["recommend", "--device", "pixel8", "--checkpoint", str(tmp_path / "checkpoint")]
    assert run([*line, "--budget", "3s", "--memory", "1.5GB"]) == 0
    told = capfd.readouterr().out
    assert told.count("no Core ML") == 1 and told.count("Times:") == 1
    heading, best, runner_up = (
        next(row for row in told.splitlines() if word in row) for word in ("Predicted, with", "best ", "runner-up ")
    )
    assert "intervals" in heading and "Every figure is predicted" in told
    assert all(re.search(r"ms +[\d.]+ m?s to [\d.]+ m?s +[\d.]+ MB, ", row) for row in (best, runner_up))
    assert run([*line, "--budget", "0.001ms", "--json"]) == 1
    document = json.loads(capfd.readouterr().out)
    assert document["source"] == "predicted" and not document["fitting"]
    assert all(option["reasons"] for option in document["others"])


def test_the_limit_is_what_one_app_may_use_or_the_assumption_is_told(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("edgegen.bench.recommend.options_of_config", lambda *_: [])
    known = load_device("iphone13").app_memory_gb
    unknown = load_device("galaxys22")
    assert known is not None and unknown.app_memory_gb is None
    text = (targets_folder() / "devices" / "galaxys22.toml").read_text(encoding="utf-8")
    neither = tmp_path / "neither.toml"
    neither.write_text(re.sub(r"\[memory_gb\]\n.*\n.*\n", "", text), encoding="utf-8")
    for name, limit, parts in (
        ("iphone13", 1e9 * known.value, ("what one app may use", known.source)),
        ("galaxys22", 1e9 * unknown.memory_gb.value, ("is not known", "assumed is all of the device's", "--memory")),
        (str(neither), None, ("is not known", "nothing is refused", "--memory")),
    ):
        run(["recommend", "--device", name, "--preset", "emoji", "--json"])
        document = json.loads(capfd.readouterr().out)
        assert document["memory_bytes"] == limit and all(part in document["memory_note"] for part in parts)
        run(["recommend", "--device", name, "--preset", "emoji"])
        told = capfd.readouterr().out
        assert all(part in told for part in parts) and ("unknown" in told) == (limit is None)
    advice = advise([], unknown, None, 1e9)
    assert (advice.memory, advice.memory_note) == (1e9, "as asked")


@pytest.mark.parametrize("line, told", [
    (["--device", "pixl8"], "Did you mean pixel8"),
    (["--device", "pixel8", "--budget", "0s"], "above 0"),
    (["--device", "pixel8", "--budget", "-1s"], "above 0"),
    (["--device", "pixel8", "--memory", "lots"], "1.5GB"),
    (["--device", "pixel8", "--preset", "papr"], "Did you mean paper"),
    (["--device", "pixel8", "--preset", "paper", "--bundle", "x"], "exclude"),
    (["--device", "pixel8", "--bundle", "nowhere"], "does not exist"),
    (["--device", "pixel8", "--backend", "onxx"], "Did you mean onnx"),
])  # fmt: skip
def test_bad_input_is_one_line(capsys, line, told, monkeypatch):
    monkeypatch.setattr("edgegen.bench.recommend.options_of_config", lambda *_: [])
    assert run(["recommend", *line]) == 2
    error = capsys.readouterr().err
    assert told in error and len([text for text in error.splitlines() if text.startswith("error")]) == 1


def test_quantities():
    assert parse_seconds("3s") == 3 and parse_seconds("800 ms") == 0.8 and parse_seconds("2") == 2
    assert parse_bytes("1.5GB") == 1.5e9 and parse_bytes("1GiB") == 2**30
