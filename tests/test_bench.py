"""Measuring: statistics against SciPy, turns, noise, interruption, records, reports, the command and its errors."""

import json
import multiprocessing
import os
import re
import shutil
import signal
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import export_line, refused
from tiny import tiny_checkpoint, tiny_tier

from edgegen.bench import records, report
from edgegen.bench.apple import compute_plan, find_device
from edgegen.bench.compare import compare
from edgegen.bench.host import Candidate, ChildRunner
from edgegen.bench.measure import NOISE_LIMIT, Measurement, Opened, Settings, measure_
from edgegen.bench.memory import Memory
from edgegen.bench.predict import Prediction
from edgegen.bench.predict_bundle import PredictedPart
from edgegen.bench.row import predicted_row
from edgegen.bench.session import BenchRequest, measure_host
from edgegen.bench.statistics import ratio_of_medians, summarize
from edgegen.bundle import load_bundle
from edgegen.charts import lines
from edgegen.cli import run
from edgegen.errors import EdgegenError, InputError
from edgegen.export import export
from edgegen.graph.attribution import Node, attribute, meet
from edgegen.model.checkpoint import load_checkpoint
from edgegen.plan import make_plan
from edgegen.target import load_tier, targets_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint, an ONNX bundle of it, and its decoder for ExecuTorch."""
    folder = tmp_path_factory.mktemp("bench")
    tiny_checkpoint(folder / "checkpoint")
    tiny_tier(folder)
    assert run(export_line(folder, folder / "bundle")) == 0
    pte = export_line(folder, folder / "pte", "--components", "decoder")
    assert run(["executorch" if word == "onnx" else word for word in pte]) == 0
    return folder


class Fake:
    """A runner whose times are given; notes what is asked of it in a log shared with others."""

    def __init__(self, name, times, log=None, stop_after=None):
        self.name, self.times, self.log = name, iter(times), [] if log is None else log
        self.left = stop_after

    def open(self):
        self.log.append(("open", self.name))
        return Opened(1.0, 1000, 1500)

    def run(self, count):
        self.log.append(("run", self.name))
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return [next(self.times) for _ in range(count)], 2000

    def close(self):
        self.log.append(("close", self.name))


def steady(seed, middle=50.0, spread=0.05):
    """Endless times around a middle, in milliseconds."""
    rng = np.random.default_rng(seed)
    while True:
        yield float(middle * np.exp(spread * rng.standard_normal()))


# ---- statistics -----------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 1e5), min_size=2, max_size=200))
def test_a_summary_is_what_scipy_says(runs):
    summary = summarize(runs)
    assert summary.n == len(runs) and summary.min == min(runs) and summary.max == max(runs)
    for share, value in ((50, summary.p50), (90, summary.p90), (95, summary.p95)):
        assert value == pytest.approx(scipy.stats.scoreatpercentile(runs, share))
    assert summary.trimmed_mean == pytest.approx(scipy.stats.trim_mean(runs, 0.1))
    assert summary.cv == pytest.approx(scipy.stats.variation(runs, ddof=1), abs=1e-9)
    kept = scipy.stats.trimboth(np.sort(runs), 0.1)
    assert summary.cv_trimmed == pytest.approx(scipy.stats.variation(kept, ddof=1), abs=1e-9)


@pytest.mark.parametrize("runs", [[], [1.0, 0.0], [1.0, -2.0], [1.0, float("nan")]])
def test_times_that_are_none_are_refused(runs):
    with pytest.raises(InputError):
        summarize(runs)


def test_the_interval_of_a_ratio_is_scipys_bootstrap():
    rng = np.random.default_rng(0)
    a, b = rng.lognormal(1.0, 0.2, 40), rng.lognormal(0.7, 0.2, 40)
    ours = ratio_of_medians(a[:, None], b[:, None], resamples=9999)
    theirs = scipy.stats.bootstrap(
        (a, b),
        lambda x, y, axis: np.median(x, axis) / np.median(y, axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=9999,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert ours.value == np.median(a) / np.median(b)
    assert ours.low == pytest.approx(theirs.low, rel=0.02) and ours.high == pytest.approx(theirs.high, rel=0.02)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = {1.0: 0, 1.5: 0}
    for truth in held:
        for _ in range(200):
            a, b = truth * rng.lognormal(0, 0.1, (20, 2)), rng.lognormal(0, 0.1, (20, 2))
            found = ratio_of_medians(a, b, resamples=300)
            held[truth] += found.low <= truth <= found.high
    assert all(0.90 * 200 <= count for count in held.values())  # 95 % promised


def test_a_slow_down_of_both_sides_widens_nothing():
    rng = np.random.default_rng(0)
    a, b = rng.lognormal(0, 0.02, (30, 2)), rng.lognormal(0, 0.02, (30, 2))
    drift = np.linspace(1, 3, 30)[:, None]
    apart = ratio_of_medians(drift * a, drift[::-1] * b)
    together = ratio_of_medians(drift * a, drift * b)
    assert together.low <= 1 <= together.high
    assert together.high - together.low < 0.3 * (apart.high - apart.low)


# ---- turns ----------------------------------------------------------------------------------------------------------


def test_candidates_take_turns_while_all_are_open():
    log = []
    runners = [Fake("a", steady(0), log), Fake("b", steady(1), log)]
    measurements = [Measurement("a"), Measurement("b")]
    measure_(measurements, runners, Settings(runs=12, warmup=2))
    names = [name for what, name in log if what == "run"]
    assert names[-24:] == ["a", "b"] * 12
    assert [what for what, _ in log[-2:]] == ["close", "close"] and ("close", "a") not in log[:-2]
    assert all(len(m.runs) == 12 and not m.partial and m.block == 1 for m in measurements)
    assert all(m.opened.load_ms == 1.0 and m.peak_bytes == 2000 for m in measurements)


def test_the_first_run_and_the_warm_up_do_not_count():
    times = iter([900.0, 800.0, 700.0, *[30.0] * 100])
    (measurement,) = measurements = [Measurement("a")]
    measure_(measurements, [Fake("a", times)], Settings(runs=20, warmup=2))
    assert measurement.first_ms == 900.0 and set(measurement.runs) == {30.0}


def test_short_runs_come_in_blocks_and_long_ones_stop_at_the_clock():
    short, long = [Measurement("short")], [Measurement("long")]
    measure_(short, [Fake("short", steady(0, 0.5))], Settings(runs=20))
    measure_(long, [Fake("long", steady(0, 4000.0))], Settings(runs=20, seconds=10))
    assert short[0].block == 10 and len(short[0].rounds) == 10
    assert len(long[0].runs) == 3


def test_an_interruption_keeps_the_rounds_and_closes_all():
    log = []
    measurements = [Measurement("a"), Measurement("b")]
    with pytest.raises(KeyboardInterrupt):
        measure_(
            measurements,
            [Fake("a", steady(0), log, stop_after=6), Fake("b", steady(1), log)],
            Settings(runs=20, warmup=1),
        )
    assert len(measurements[0].runs) == 4 and all(m.partial for m in measurements)
    assert log[-2:] == [("close", "a"), ("close", "b")]


@pytest.mark.parametrize(
    "wrong",
    [
        dict(runs=0),
        dict(runs=-3),
        dict(seconds=0.0),
        dict(seconds=float("nan")),
        dict(seconds=float("inf")),
        dict(threads=0),
        dict(warmup=-1),
    ],
)
def test_settings_that_measure_nothing_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Settings(**wrong)


def test_comparing_one_with_itself_shows_no_difference():
    pair = [Measurement("A"), Measurement("B")]
    measure_(pair, [Fake("a", steady(0)), Fake("b", steady(1))], Settings(runs=30))
    same = compare("decoder", pair)
    assert same.ratio.low < 1 < same.ratio.high and same.verdict == "no difference shown"
    pair = [Measurement("A"), Measurement("B")]
    measure_(pair, [Fake("a", steady(0, 100.0)), Fake("b", steady(1))], Settings(runs=30))
    assert compare("decoder", pair).verdict == "B is 2.00x faster" or compare("decoder", pair).ratio.low > 1.9
    with pytest.raises(InputError, match="turn"):
        compare("decoder", [pair[0], Measurement("C")])


# ---- a session on a bundle ------------------------------------------------------------------------------------------


def session(made, tmp_path, times, force=False, **more):
    """measure_host on the tiny bundle with runners whose times are given, by call."""
    request = BenchRequest(
        (made / "bundle",),
        ("onnx",),
        ("decoder",),
        settings=Settings(runs=20),
        force=force,
        record=tmp_path / "rows.jsonl",
        **more,
    )
    made_runners = iter(times)
    return measure_host(request, make_runner=lambda candidate, _: Fake(candidate.label, next(made_runners)))


def test_a_noisy_machine_is_not_believed_unless_forced(made, tmp_path):
    with pytest.raises(EdgegenError, match=rf"CV 0\.[3-9].*limit is {NOISE_LIMIT:g}") as caught:
        session(made, tmp_path, [steady(0, spread=0.8), steady(1, spread=0.8)])
    assert caught.value.exit_code == 1 and not (tmp_path / "rows.jsonl").exists()
    forced = session(made, tmp_path, [steady(0, spread=0.8)], force=True)
    assert forced.rows[0]["noisy"] and records.read(tmp_path / "rows.jsonl") == forced.rows
    calm = session(made, tmp_path, [steady(0, spread=0.8), steady(1)])  # the second attempt counts
    assert not calm.rows[0]["noisy"]


def test_an_interrupted_session_records_what_it_has_as_partial(made, tmp_path):
    request = BenchRequest((made / "bundle",), ("onnx",), ("transformer",), record=tmp_path / "rows.jsonl")
    with pytest.raises(KeyboardInterrupt):
        measure_host(request, make_runner=lambda candidate, _: Fake("x", steady(0), stop_after=9))
    (row,) = records.read(tmp_path / "rows.jsonl")
    assert row["partial"] is True and row["latency_ms"]["n"] == 7 == len(row["latency_ms"]["runs"])


def test_two_bundles_are_compared_in_turn(made, tmp_path):
    pair = (str(made / "bundle"), str(made / "bundle"))
    outcome = session(made, tmp_path, [steady(0), steady(1)], compare=pair)
    assert [c.component for c in outcome.comparisons] == ["decoder"]
    assert outcome.comparisons[0].ratio.low < 1 < outcome.comparisons[0].ratio.high
    assert [row["settings"]["in_turn_with"][0][:2] for row in outcome.rows] == ["B:", "A:"]


def test_a_child_measures_a_real_artifact(made, tmp_path, capfd):
    out = tmp_path / "page.html"
    assert (
        run(
            [
                "bench",
                "--bundle",
                str(made / "bundle"),
                "--component",
                "transformer,picture",
                "--force",
                "--json",
                "--seconds",
                "2",
                "--report",
                str(out),
                "--record",
                str(tmp_path / "rows.jsonl"),
            ]
        )
        == 0
    )
    captured = capfd.readouterr()
    document = json.loads(captured.out)
    assert captured.err.splitlines()[0] == "host, source: measured"
    assert [row["component"] for row in document["rows"]] == ["transformer", "picture"]
    manifest = {a.name: a for a in load_bundle(made / "bundle").manifest.components}
    for row in document["rows"]:
        assert row["source"] == "measured" and row["settings"]["threads"] == 1 and not row["partial"]
        assert {"commit", "machine", "versions", "date", "form", "width", "bits"} <= row.keys()
        latency, memory = row["latency_ms"], row["memory"]
        assert 0 < latency["min"] <= latency["p50"] <= latency["p90"] <= latency["p95"] <= latency["max"]
        assert len(latency["runs"]) == latency["n"] >= 3 and row["load_ms"] > 0 and row["first_ms"] > 0
        assert 0 < memory["base_bytes"] <= memory["loaded_bytes"] <= memory["peak_bytes"]
        assert memory["predicted"]["low"] < memory["predicted"]["predicted_bytes"] < memory["predicted"]["high"]
    assert document["rows"][0]["artifacts"][0]["sha256"] == manifest["transformer"].sha256
    assert len(document["rows"][1]["artifacts"]) == 3
    assert document["rows"][1]["latency_ms"]["p50"] > document["rows"][0]["latency_ms"]["p50"]  # 3 steps, guided
    assert records.read(tmp_path / "rows.jsonl") == document["rows"]
    assert "measured" in out.read_text()


def test_a_child_that_dies_is_named_with_its_signal(made):
    runner = ChildRunner(Candidate(load_bundle(made / "bundle"), "onnx", "decoder"), Settings())
    try:
        assert runner.open().base_bytes > 10e6
        os.kill(runner.process.pid, signal.SIGKILL)
        with pytest.raises(EdgegenError, match="decoder on onnx .*signal 9"):
            runner.run(1)
    finally:
        runner.close()
    with pytest.raises(ProcessLookupError):
        os.kill(runner.process.pid, 0)


# ---- profile --------------------------------------------------------------------------------------------------------


def test_a_module_is_what_lies_on_both_sides():
    nodes = [
        Node("q", ("x",), ("a",), "down.3.attn.q"),
        Node("fused", ("a",), ("b",), ""),
        Node("reshape", ("b",), ("c",), ""),
        Node("o", ("c", "r"), ("d",), "down.3.attn.o"),
        Node("add", ("d", "x"), ("e",), ""),
        Node("up", ("e",), ("f",), "down.3.ffn.up"),
        Node("last", ("f",), ("g",), ""),
    ]
    found = attribute(nodes)
    assert found["fused"] == found["reshape"] == "down.3.attn" and found["q"] == "down.3.attn.q"
    assert found["add"] == "down.3" and found["last"] == "down.3.ffn.up"
    assert meet(["down.1", "up.1"]) == "" and meet([]) == ""


def modules_of(made, component):
    checkpoint = load_checkpoint(made / "checkpoint")
    module = checkpoint.transformer(0.5) if component == "transformer" else checkpoint.decoder()
    return {name for name, _ in module.named_modules()}


@pytest.mark.parametrize(
    ("folder", "backend", "component"), [("bundle", "onnx", "transformer"), ("pte", "executorch", "decoder")]
)
def test_a_profile_names_the_modules_of_the_network(made, tmp_path, capfd, folder, backend, component):
    trace = tmp_path / "trace.json"
    assert (
        run(
            [
                "bench",
                "--bundle",
                str(made / folder),
                "--component",
                component,
                "--profile",
                "--runs",
                "5",
                "--json",
                "--trace",
                str(trace),
                "--report",
                str(tmp_path / "page.html"),
            ]
        )
        == 0
    )
    (profile,) = json.loads(capfd.readouterr().out)["profiles"]
    operations = profile["operations"]
    starts = [operation["start_ms"] for operation in operations]
    assert len(operations) > 20 and starts == sorted(starts) and starts[0] == 0
    known = modules_of(made, component)
    parents = {operation["module"].split(".rope")[0] for operation in operations}  # rotations are the rewrite's own
    strange = {name for name in parents if name and name not in known and name.rpartition(".")[0] not in known}
    assert not strange
    named = sum(operation["module"] != "" for operation in operations)
    assert named > 0.7 * len(operations)
    if component == "transformer":
        assert {"down.0.attn", "middle.1.ffn", "up.0.cross"} <= {".".join(n.split(".")[:3]) for n in parents}
    events = json.loads(trace.read_text())["traceEvents"]
    assert sum(event["ph"] == "X" for event in events) == len(operations)
    assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in events if event["ph"] == "X")
    assert "By module" in (tmp_path / "page.html").read_text()


# ---- records and reports --------------------------------------------------------------------------------------------


def append_many(path, who):
    for number in range(50):
        records.append(path, {"source": "measured", "who": who, "number": number, "filling": "x" * 5000})


def test_processes_append_whole_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    workers = [multiprocessing.Process(target=append_many, args=(path, who)) for who in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted((row["who"], row["number"]) for row in rows) == [(w, n) for w in range(4) for n in range(50)]


def test_a_line_cut_off_harms_no_other(tmp_path):
    path = tmp_path / "rows.jsonl"
    records.append(path, {"source": "measured", "n": 1})
    with path.open("a") as file:
        file.write('{"source": "measured", "n": 2, "cu')
    records.append(path, {"source": "predicted", "n": 3})
    assert [row["n"] for row in records.read(path)] == [1, 3]
    with pytest.raises(InputError, match="source"):
        records.append(path, {"n": 4})


def test_a_study_is_resumed_from_its_own_row_only(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    monkeypatch.setattr(records, "commit", lambda: "abcdef0")  # a source archive has none
    row = records.append_study(path, {"tokens": 64}, {"ms": 1.0})
    assert records.done(path, {"tokens": 64}) == row and records.done(path, {"tokens": 65}) is None
    path.write_text(path.read_text().replace(f'"commit": "{row["commit"]}"', '"commit": "1234567"'))
    assert records.done(path, {"tokens": 64}) is None
    monkeypatch.setattr(records, "commit", lambda: None)
    records.append_study(path, {"tokens": 64}, {"ms": 1.0})
    assert records.done(path, {"tokens": 64}) is None  # a commit that is not known is not this one


def test_a_report_is_one_file_that_says_predicted_in_every_row(made, tmp_path):
    bundle = load_bundle(made / "bundle")
    environment = records.environment()
    time = Prediction(12.0, 7.5, 19.25, "CPU", 0.21, 5)
    memory = Memory(held=1_000_000, opening=0, activations=500_000, base=0)
    parts = [
        PredictedPart("text_encoder", "onnx", time, memory),
        PredictedPart("transformer", "onnx", time, memory),
        PredictedPart("decoder", "onnx", None, memory, "pixel8 gives no rate <x>"),
    ]
    rows = [predicted_row(bundle, part, "pixel8", environment) for part in parts]
    report.write(tmp_path / "page.html", rows)
    page = (tmp_path / "page.html").read_text()
    assert not re.search(r"(src|href|url|@import)\s*[=(]", page) and "<script" not in page
    assert set(re.findall(r"https?://[^\"' ]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "predicted" in re.search("<h1>.*</h1>", page)[0]
    table_rows = re.findall(r"<tr class=predicted>.*", page)
    assert len(table_rows) == 3
    for line in table_rows[:2]:
        assert "<td>predicted" in line and "<td>7.5<" in line and "<td>19.2" in line
        assert re.search(r"predicted 1\.5 \(1\.\d to 1\.8\)", line)
    assert "gives no rate &lt;x&gt;" in table_rows[2]
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        texts = [text.text for text in ElementTree.fromstring(drawing).iter() if (text.text or "").strip()]
        assert all("predicted" in text for text in texts)
    assert os.listdir(tmp_path) == ["page.html"]


def test_a_line_plot_is_a_picture_with_every_series():
    drawing = ElementTree.fromstring(lines({"a < b": [(64, 0.5), (1024, 30)], "c": [(64, 2)]}, "t", "tokens", "ms"))
    assert sum(element.tag.endswith("polyline") for element in drawing.iter()) == 2
    assert "a < b" in [element.text for element in drawing.iter()]


# ---- devices that are not here --------------------------------------------------------------------------------------


def test_a_connected_phone_is_found_by_its_model():
    def entry(name, state):
        return {
            "identifier": f"id of {name}",
            "hardwareProperties": {"marketingName": name},
            "connectionProperties": {"tunnelState": state},
        }

    listed = {
        "result": {
            "devices": [
                entry("iPhone 16 Pro", "connected"),
                entry("iPhone 16 Pro Max", "disconnected"),
                entry("iPad Pro (M4)", "connected"),
            ]
        }
    }
    assert find_device(listed, "iPhone 16 Pro Max") is None
    assert find_device(listed, "iPhone 16 Pro") == "id of iPhone 16 Pro"
    assert find_device(listed, "iPad Pro (M4), 256 or 512 GB") == "id of iPad Pro (M4)"
    assert find_device({}, "iPhone 16 Pro") is None


def test_what_is_not_here_is_predicted_and_says_so(made, tmp_path, capfd):
    line = ["bench", "--device", "pixel8", "--bundle", str(made / "bundle")]
    assert run([*line, "--report", str(tmp_path / "page.html")]) == 0
    told = capfd.readouterr().out.splitlines()
    assert "predicted" in told[0] and "nothing here was measured" in told[0]
    rows = [
        text
        for text in told
        if text.split()[:1] and text.split()[0] in ("text_encoder", "transformer", "decoder", "picture")
    ]
    assert len(rows) == 4 and all("predicted" in text for text in rows)
    assert run([*line, "--json", "--component", "picture,decoder"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["source"] == "predicted" and [r["component"] for r in document["rows"]] == ["decoder", "picture"]
    for row in document["rows"]:
        latency = row["latency_ms"]
        assert row["source"] == "predicted" and (latency is None) == bool(row["cannot_predict"])
        assert latency is None or 0 < latency["low"] < latency["predicted"] < latency["high"]
    assert "predicted" in (tmp_path / "page.html").read_text()


def test_a_device_without_a_rate_says_what_cannot_be_predicted(made, tmp_path, capfd):
    text = (targets_folder() / "devices" / "pixel8.toml").read_text()
    (tmp_path / "bare.toml").write_text(re.split(r"^\[(?:units|bandwidth)", text, maxsplit=1, flags=re.M)[0])
    assert run(["bench", "--device", str(tmp_path / "bare.toml"), "--bundle", str(made / "bundle"), "--json"]) == 0
    for row in json.loads(capfd.readouterr().out)["rows"]:
        assert row["latency_ms"] is None and "not known" in row["cannot_predict"] and row["source"] == "predicted"


def test_core_ml_plans_on_a_mac_only(made):
    with pytest.raises(EdgegenError, match="Run this on a Mac"):
        compute_plan(made / "bundle")


# ---- input that cannot be used --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--device", "iphone16proo"], ["unknown device 'iphone16proo'", "Did you mean iphone16pro?"]),
        (["--backend", "executorch"], ["'executorch'", "onnx"]),
        (["--backend", "onxn"], ["'onxn'", "Did you mean onnx"]),
        (["--component", "decodr"], ["'decodr'", "Did you mean decoder"]),
        (["--compare", "onnx", "executorch"], ["'executorch'", "onnx"]),
        (["--runs", "0"], ["--runs is 0", "1 or more"]),
        (["--runs", "-5"], ["--runs is -5"]),
        (["--seconds", "-1"], ["--seconds is -1"]),
        (["--threads", "4096"], ["--threads is 4096", "cores"]),
        (["--trace", "x.json"], ["--profile"]),
        (["--report", "x.txt"], [".html"]),
        (["--report", "/no/such/x.html"], ["/no/such does not exist"]),
        (["--profile", "--component", "picture"], ["components"]),
    ],
)
def test_bad_input_is_one_line(made, tmp_path, capfd, more, told):
    refused(capfd, ["bench", "--bundle", made / "bundle", "--record", tmp_path / "rows.jsonl", *more], *told)
    assert not os.listdir(tmp_path)


def test_a_changed_artifact_is_not_measured(made, tmp_path, capfd):
    copy = Path(shutil.copytree(made / "bundle", tmp_path / "copy"))
    artifact = copy / "onnx" / "decoder.onnx"
    artifact.write_bytes(artifact.read_bytes()[:-1] + b"?")
    refused(capfd, ["bench", "--bundle", copy], "decoder.onnx has changed", "sha256")
    refused(capfd, ["bench", "--compare", made / "bundle", copy], "decoder.onnx has changed")
    refused(capfd, ["bench", "--bundle", tmp_path / "nothing"], "does not exist")


def test_core_ml_is_not_timed_where_it_is_only_evaluated(made, tmp_path, capfd):
    checkpoint, tier = load_checkpoint(made / "checkpoint"), load_tier(str(made / "tiny-tier.toml"))
    export(make_plan(checkpoint, tier, ["coreml"], ["decoder"], out=tmp_path / "bundle"))
    refused(capfd, ["bench", "--bundle", tmp_path / "bundle"], "Core ML does not run on", "evaluator")
