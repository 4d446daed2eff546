"""A transformer in several Core ML programs: where it is cut, and that they are together what one program is."""

import json
import os
import shutil
import subprocess
import sys
import time
from copy import deepcopy
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from check_bundle import check
from conftest import scrambled, small_config
from hypothesis import given, settings
from hypothesis import strategies as st
from test_emit_palette import quantized
from tiny import TIER, tiny_checkpoint, tiny_tier

from edgegen import export as exporting
from edgegen.backends.registry import read_graph
from edgegen.bench.child import inputs_of
from edgegen.bench.parts import PARTS
from edgegen.bench.predict_bundle import host_memory, predict_bundle
from edgegen.bench.recommend import options_of_bundle
from edgegen.bench.remote import pick_components
from edgegen.bench.session import BenchRequest
from edgegen.bundle import load_bundle
from edgegen.chain import signature
from edgegen.chunking import Chunking, weight_of
from edgegen.cli.main import run
from edgegen.emit import coreml
from edgegen.errors import InputError
from edgegen.files import digest
from edgegen.graph.operations import joined
from edgegen.inspection import inspect_folder
from edgegen.journal import NOTES
from edgegen.manifest import read_manifest
from edgegen.model.checkpoint import bundled_folder, load_checkpoint
from edgegen.model.dit import DiT
from edgegen.model.elastic import materialize
from edgegen.pipeline.artifact import Chain
from edgegen.plan import make_plan
from edgegen.rewrite.build import transformer_component
from edgegen.rewrite.chunks import balanced, chunk_components, fewest, heaviest, make_chunks
from edgegen.rewrite.component import Form
from edgegen.runtime.coreml import CoreMLProgram
from edgegen.target import load_device, load_tier
from edgegen.verify import Case, compare_chain

GIVEN = ("latent", "timestep_features", "text", "text_mask", "pooled_text")


# ---- where to cut


def table(sizes: list[int], shared: int):
    """Weights of runs of segments, each with a constant of `shared` bytes that is there once."""
    return lambda start, stop: shared + sum(sizes[start:stop])


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=8), shared=st.integers(0, 20), data=st.data())
def test_cuts_are_the_best_of_all(sizes, shared, data):
    weight, parts = table(sizes, shared), len(sizes)

    def best(count: int) -> int:
        return min(heaviest((0, *cuts), parts, weight) for cuts in combinations(range(1, parts), count - 1))

    count = data.draw(st.integers(1, parts))
    starts = balanced(parts, count, weight)
    assert len(starts) == count and list(starts) == sorted(set(starts)) and starts[0] == 0
    assert heaviest(starts, parts, weight) == best(count)
    limit = data.draw(st.integers(shared, 300))
    if limit < max(sizes) + shared:
        with pytest.raises(InputError, match="no cut goes through a block"):
            fewest([f"middle.{i}" for i in range(parts)], limit, weight)
        return
    found = fewest([f"middle.{i}" for i in range(parts)], limit, weight)
    assert heaviest(found, parts, weight) <= limit
    assert all(best(fewer) > limit for fewer in range(1, len(found)))


# ---- chunks of a network


def cut(model: DiT, latent: tuple[int, int], tokens: int, form: Form, count: int, weights=None, number: int = 2):
    """A transformer's component, and its chunks, which are found without its weights."""
    with torch.device("meta"):
        outline = transformer_component(deepcopy(model).to("meta"), latent, tokens, form)
    weight = weight_of(outline, number, weights or {})
    return make_chunks(outline, balanced(len(outline.segments), count, weight), weight)


@settings(max_examples=12, deadline=None)
@given(
    depths=st.sampled_from([(1, 3, 1), (2, 5, 1), (1, 1, 2), (4,)]),
    form=st.sampled_from([Form("split"), Form("batched")]),
    pooled=st.booleans(),
    data=st.data(),
)
def test_chunks_in_order_compute_what_the_whole_does(depths, form, pooled, data):
    config = small_config(hidden=32, depths=depths, ffn_ratios=(2,) * len(depths), pooled_text=pooled, widths=(1.0,))
    model = materialize(scrambled(config), 1.0)
    component = transformer_component(model, (16, 16), 7, form)
    chunks = cut(model, (16, 16), 7, form, data.draw(st.integers(2, len(component.segments))))
    components = chunk_components(component, chunks)
    assert [c.name for c in components] == [f"transformer_{i}" for i in range(1, len(chunks) + 1)]
    values = {spec.name: torch.randn(spec.shape) for spec in component.inputs}
    with torch.no_grad():
        expected = component.module(*values.values())
        for chunk in components:
            made = chunk.module(*(values[spec.name] for spec in chunk.inputs))
            made = made if isinstance(made, tuple) else (made,)
            assert [tuple(value.shape) for value in made] == [spec.shape for spec in chunk.outputs]
            values |= dict(zip((spec.name for spec in chunk.outputs), made, strict=True))
    assert torch.equal(values["velocity"], expected)
    names = [name for chunk in components for name, _ in chunk.module.named_parameters()]
    assert sorted(names) == sorted(name for name, _ in component.module.named_parameters())
    assert sum(chunk.parameters for chunk in chunks) == sum(p.numel() for p in component.module.parameters())


def evaluate(programs: list[CoreMLProgram], feed: dict[str, np.ndarray]) -> np.ndarray:
    """The velocity of programs that run in order, each given what its inputs name."""
    values = dict(feed)
    for program in programs:
        values |= program.run({info.name: values[info.name] for info in program.inputs})
    return values["velocity"]


def assert_equal_to_the_whole(model: DiT, shape, weights, counts, folder: Path) -> None:
    """Writes a transformer as one program and in chunks, and holds them against each other, bit for bit."""
    component = transformer_component(model, *shape)
    plans = {count: cut(model, *shape, count, weights) for count in counts}
    written = [component, *(c for chunks in plans.values() for c in chunk_components(component, chunks))]
    paths = [folder / f"{number}.mlpackage" for number in range(len(written))]
    assert list(coreml.write_all(written, paths, weights=weights)) == paths
    whole, *rest = (CoreMLProgram.load(path) for path in paths)
    rng = np.random.default_rng(0)
    feed = {spec.name: rng.standard_normal(spec.shape).astype(np.float16) for spec in component.inputs}
    feed["text_mask"][:] = 1
    expected = evaluate([whole], feed)
    assert np.isfinite(expected).all() and expected.std() > 0
    for chunks in plans.values():
        programs = [rest.pop(0) for _ in chunks]
        np.testing.assert_array_equal(evaluate(programs, feed), expected)
        assert sum((p.operation_counts() for p in programs), whole.operation_counts()) == {
            kind: 2 * count for kind, count in whole.operation_counts().items()
        }  # no operation is lost, none done twice
        for program, chunk in zip(programs, chunks, strict=True):
            size = sum(file.stat().st_size for file in program.path.rglob("weights/*"))
            assert 0.6 * chunk.bytes < size <= chunk.bytes
    graphs = [read_graph("coreml", path) for path in paths[: 1 + counts[0]]]
    assert joined(graphs[1:]).totals.macs == graphs[0].totals.macs
    assert set(joined(graphs[1:]).inputs) == set(graphs[0].inputs)


def test_the_bundled_transformer_in_two_and_three_chunks_is_the_whole_to_the_bit(tmp_path):
    checkpoint, tier = load_checkpoint(bundled_folder()), load_tier("low-android")
    form = Form("split", tier.backend("coreml").query_chunk)
    assert_equal_to_the_whole(checkpoint.transformer(tier.width), ((16, 16), 96, form), {}, (2, 3), tmp_path)


def test_a_palettized_transformer_in_chunks_is_the_whole_to_the_bit(tmp_path):
    model, weights = quantized("palette")
    assert_equal_to_the_whole(model, ((8, 8), 7, Form("split")), weights, (3,), tmp_path)


def test_chunks_in_float32_keep_their_weights_names(tmp_path):
    model = materialize(scrambled(small_config(hidden=32, depths=(2,), ffn_ratios=(2,), widths=(1.0,))), 1.0)
    component = transformer_component(model, (16, 16), 7, Form("split"))
    chunks = cut(model, (16, 16), 7, Form("split"), 2, number=4)
    assert [chunk.start for chunk in chunks] == [0, 2]
    first, second = chunk_components(component, chunks)
    paths = [tmp_path / "1.mlpackage", tmp_path / "2.mlpackage"]
    programs = [CoreMLProgram.load(path) for path in coreml.write_all([first, second], paths, precision="float32")]
    assert "p_middle_1_attn_q_weight" in {info.name for info in programs[1].constants()}
    feed = {spec.name: torch.randn(spec.shape).numpy() for spec in component.inputs}
    with torch.no_grad():
        expected = component.module(*map(torch.from_numpy, feed.values())).numpy()
    np.testing.assert_allclose(evaluate(programs, feed), expected, atol=1e-4)


# ---- a bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A checkpoint, its tier and its Core ML bundle with a transformer in three chunks."""
    folder = tmp_path_factory.mktemp("chunks")
    tiny_checkpoint(folder / "checkpoint")
    tiny_tier(folder)
    assert run([*line(folder), "--chunks", "3", "--out", str(folder / "bundle")]) == 0
    return folder


def line(folder: Path) -> list[str]:
    words = [
        "export",
        "--tier",
        folder / "tiny-tier.toml",
        "--checkpoint",
        folder / "checkpoint",
        "--backend",
        "coreml",
    ]
    return [str(word) for word in words]


def test_the_bundle_lists_chunks_in_order_and_each_is_verified(made, capfd):
    bundle = load_bundle(made / "bundle")
    names = [artifact.name for artifact in bundle.manifest.components]
    assert names == ["text_encoder", "transformer_1", "transformer_2", "transformer_3", "decoder"]
    programs = bundle.programs("transformer", "coreml")
    inputs, outputs = signature(programs)
    assert [spec.name for spec in inputs] == list(GIVEN) and [spec.name for spec in outputs] == ["velocity"]
    rows = {row["component"]: row for row in json.loads((made / "bundle" / "verify.json").read_text())}
    assert set(rows) == {*names, "transformer", "picture"}
    assert all(row["passed"] and row["finite"] and row["inputs"] > 0 for row in rows.values())
    assert rows["transformer"]["psnr_db"] == rows["transformer_3"]["psnr_db"]
    assert check(made / "bundle", ["coreml"]) == []
    assert capfd.readouterr().out.count("ok  ") == 5


def test_what_reads_a_bundle_takes_its_chunks_as_one(made, tmp_path, capfd):
    folder = str(made / "bundle")
    assert run(["verify", folder, "--json"]) == 0
    rows = [row["component"] for row in json.loads(capfd.readouterr().out)["verify"]]
    assert {"transformer", "transformer_1", "transformer_3", "picture"} <= set(rows)
    assert run(["generate", "a cat", "--bundle", folder, "--seed", "3", "--out", str(tmp_path / "p.png")]) == 0
    contents = {c.component: c for c in inspect_folder(made / "bundle").components}
    assert all(contents[f"transformer_{i}"].operation_count > 20 for i in (1, 2, 3))
    bundle, device = load_bundle(folder), load_device("iphone16pm")
    parts = {part.component: part for part in predict_bundle(bundle, device)}
    assert list(parts) == list(PARTS) and all(part.time is not None for part in parts.values())
    held = sum(artifact.resident_bytes for artifact in bundle.programs("transformer", "coreml"))
    assert parts["transformer"].memory.held == held == host_memory(bundle, "coreml", "transformer").held
    (option,) = options_of_bundle(bundle, device)
    assert option.time is not None and option.time.milliseconds == parts["picture"].time.milliseconds
    assert pick_components(bundle, BenchRequest()) == [("coreml", part) for part in PARTS]
    assert set(inputs_of(bundle, bundle.programs("transformer", "coreml"))) == set(GIVEN)


def edited(made: Path, folder: Path, edit) -> Path:
    """A manifest whose list of components was changed."""
    values = json.loads((made / "bundle" / "manifest.json").read_text())
    values["components"] = edit(values["components"])
    path = folder / "manifest.json"
    path.write_text(json.dumps(values))
    return path


def changed(components: list, index: int, **values) -> list:
    return [component | values if i == index else component for i, component in enumerate(components)]


@pytest.mark.parametrize(
    "edit, told",
    [
        (lambda c: [c[0], c[2], c[1], c[3], c[4]], "no chunks of a transformer in order"),
        (lambda c: [c[0], c[2], c[3], c[4]], "no chunks of a transformer in order"),
        (lambda c: [c[0], c[1], c[4]], "no chunks of a transformer in order"),
        (lambda c: changed(c, 3, name="transformer"), "no chunks of a transformer in order"),
        (lambda c: changed(c, 3, name="transformer_0"), "or a chunk"),
        (lambda c: changed(c, 3, name="decoder_2"), "or a chunk"),
        (lambda c: changed(c, 1, outputs=c[1]["outputs"][:-1]), "those of a transformer are"),
        (lambda c: changed(c, 2, outputs=c[1]["outputs"]), "is given twice"),
        (lambda c: changed(c, 1, outputs=[o | {"shape": [1, 3, 1, 1]} for o in c[1]["outputs"]]), "it is given"),
        (lambda c: changed(c, 1, outputs=[o | {"dtype": "int32"} for o in c[1]["outputs"]]), "the limit is"),
        (lambda c: changed(c, 1, outputs=[o | {"shape": [2**24, 99]} for o in c[1]["outputs"]]), "the limit is"),
        (lambda c: changed(c, 1, inputs=[c[1]["inputs"][0], *c[1]["inputs"]]), "is read twice"),
    ],
)
def test_chunks_that_do_not_fit_together_are_refused(made, tmp_path, edit, told):
    with pytest.raises(InputError, match=told):
        read_manifest(edited(made, tmp_path, edit))


def test_a_value_that_the_original_does_not_have_is_refused(made, tmp_path, capfd):
    bundle = Path(shutil.copytree(made / "bundle", tmp_path / "bundle"))
    name = load_bundle(bundle).programs("transformer", "coreml")[0].outputs[-1].name
    text = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(text.replace(f'"{name}"', '"middle_9"'))
    assert run(["verify", str(bundle)]) == 2
    assert "'middle_9' is no value inside this transformer" in capfd.readouterr().err


def test_a_chunk_that_is_wrong_fails_even_where_the_end_is_right(made):
    programs = load_bundle(made / "bundle").programs("transformer", "coreml")
    between = {spec.name: np.ones((1, *spec.shape[:0:-1][:1], spec.shape[1])) for spec in programs[0].outputs}
    between |= {spec.name: np.ones((1, spec.shape[3], spec.shape[1])) for p in programs[:2] for spec in p.outputs}
    velocity = np.ones(programs[2].outputs[0].shape)
    case = Case({}, {"velocity": velocity}, between)

    def giving(program, value):
        return lambda feed: {spec.name: np.full(spec.shape, value) for spec in program.outputs}

    runs = [giving(program, value) for program, value in zip(programs, (1.0, 2.0, 1.0), strict=True)]
    rows = compare_chain(Chain(programs, runs), [case], "transformer", "coreml", 40.0)
    assert [(row.component, row.passed) for row in rows] == [
        ("transformer_1", True), ("transformer_2", False), ("transformer_3", True), ("transformer", True)
    ]  # fmt: skip


def test_a_chain_keeps_a_value_no_longer_than_it_is_read(made):
    programs = load_bundle(made / "bundle").programs("transformer", "coreml")
    seen = []

    def giving(program):
        def one(feed):
            seen.append(set(feed))
            return {spec.name: np.zeros(1) for spec in program.outputs}

        return one

    Chain(programs, [giving(program) for program in programs]).run(dict.fromkeys(GIVEN, np.zeros(1)))
    assert seen[0] == set(GIVEN)
    for number, known in enumerate(seen[1:], 1):
        assert known == {spec.name for program in programs[number:] for spec in program.inputs} & (
            known | seen[number - 1] | {spec.name for spec in programs[number - 1].outputs}
        )


# ---- what is refused, and a tier's own limit


def refused(capfd, arguments, *told: str) -> None:
    assert run([str(argument) for argument in arguments]) == 2
    out, err = capfd.readouterr()
    errors = [text for text in err.splitlines() if text.startswith("error: ")]
    assert len(errors) == 1 and out == "" and all(part in errors[0] for part in told), err


def test_what_cannot_be_cut_so_is_one_line(made, tmp_path, capfd):
    export = [*line(made), "--out", tmp_path / "o"]
    refused(capfd, [*export, "--chunks", "9"], "8 parts to cut between, 9 chunks", "--chunks 8 or fewer")
    refused(capfd, [*export, "--chunks", "0"], "--chunks 0 is outside 1 to 32")
    refused(capfd, [*export, "--chunks", "2", "--chunk-mib", "1"], "exclude each other")
    refused(capfd, [*export, "--chunk-mib", "0"], "--chunk-mib 0 is outside")
    refused(capfd, [*export, "--chunks", "2", "--components", "decoder"], "the transformer for coreml")
    refused(capfd, [*export, "--chunks", "2", "--backend", "onnx"], "the transformer for coreml")
    refused(capfd, ["export", "--module", "m.py:f", "--preset", "paper", "--chunks", "2"], "our own checkpoints")
    full = ["export", "--tier", "full", "--backend", "coreml", "--dry-run", "--chunk-mib", "1"]
    refused(capfd, full, "alone has", "1 MiB, and no cut goes through a block", "Raise")
    assert not list(tmp_path.iterdir())


def test_a_tier_limits_the_weights_of_a_program(made, tmp_path, capfd):
    tier = tmp_path / "tier.toml"
    tier.write_text(TIER.replace('deployment_target = "iOS17"', 'deployment_target = "iOS17"\nchunk_mib = 1'))
    checkpoint = load_checkpoint(made / "checkpoint")
    assert make_plan(checkpoint, load_tier(str(tier)), out=tmp_path / "o").parts[1].chunks == ()  # they fit in one
    text = (Path("targets/tiers") / "low-android.toml").read_text()
    bundled, limited = load_checkpoint(bundled_folder()), tmp_path / "limited.toml"
    limited.write_text(text.replace("[backends.coreml]\n", "[backends.coreml]\nchunk_mib = 2\n"))
    plan = make_plan(bundled, load_tier(str(limited)), ["coreml", "onnx"], out=tmp_path / "o")
    parts = {(part.component, part.backend): part for part in plan.parts}
    chunks = parts["transformer", "coreml"].chunks
    assert len(chunks) == 3 and max(chunk.bytes for chunk in chunks) <= 2 * 2**20
    assert parts["transformer", "coreml"].bytes == sum(chunk.bytes for chunk in chunks)
    assert not parts["transformer", "onnx"].chunks and not parts["decoder", "coreml"].chunks
    one = make_plan(bundled, load_tier(str(limited)), ["coreml"], out=tmp_path / "o", chunking=Chunking(count=1))
    assert not any(part.chunks for part in one.parts)
    tier.write_text(TIER.replace("floor_db = 100.0", "floor_db = 100.0\nchunk_mib = 1"))
    refused(capfd, [*line(made)[:2], tier, *line(made)[3:], "--dry-run"], "unknown key backends.onnx.chunk_mib")
    for words in (["--chunks", "2"], ["--chunk-mib", "2"]):
        assert run(["export", "--backend", "coreml", *words, "--dry-run", "--out", str(tmp_path / "o")]) == 0
        assert "transformer_2" in capfd.readouterr().out


def test_killed_between_chunks_it_goes_on_and_ends_in_the_same_bytes(made, tmp_path, monkeypatch):
    out = tmp_path / "out" / "bundle"
    words = [*line(made), "--chunks", "3", "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "edgegen", *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 200
    while not (found := list(out.parent.glob(f".*/{NOTES}/*transformer_1*"))) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert found and not out.exists() and not list(out.parent.rglob("manifest.json"))
    written, real = [], coreml.write_all

    def noting(components, *rest):
        written.extend(component.name for component in components)
        return real(components, *rest)

    monkeypatch.setattr(coreml, "write_all", noting)
    monkeypatch.setattr(exporting, "fits_two", lambda plan: False)
    assert run([*words, "--resume"]) == 0
    assert "transformer_3" in written and "transformer_1" not in written
    assert digest(out) == digest(made / "bundle")
