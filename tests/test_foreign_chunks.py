"""Networks of other projects cut between their blocks: the same numbers, in several programs, with weights on disk."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import FAMILIES, build, source
from safetensors.torch import load_file
from torch import nn

import edgegen.foreign.export as exporting
import edgegen.foreign.mapped as mapped
import edgegen.foreign.quantize as quantizing
import edgegen.foreign.recording as recording
import edgegen.foreign.writing as writing
from edgegen.bench.child import inputs_of
from edgegen.bundle import load_bundle
from edgegen.capture.deploy import deploy, trace
from edgegen.capture.segments import REPEATS, cut, in_segments
from edgegen.capture.specialize import leaf_names, specialize
from edgegen.cli import run
from edgegen.emit.coreml_template import make_template
from edgegen.errors import InputError
from edgegen.files import digest
from edgegen.foreign.folder import list_parts, load_part
from edgegen.foreign.source import Source
from edgegen.foreign.streamed import HELD, Stored, streaming
from edgegen.foreign.streamed_bits import measure_stored
from edgegen.quantize.palette import palettize
from edgegen.rewrite.component import Form, TensorSpec
from edgegen.rewrite.segments import run_segments, structure
from edgegen.target import load_tier

FORMS = {"split": Form("split", 8), "fused": Form("batched", operations="fused")}


@pytest.mark.parametrize("name", FAMILIES)
def test_segments_in_order_are_the_network(name):
    """To the last bit, in two forms; and blocks of a kind are told to be the same."""
    made = source(*FAMILIES[name](layers=4))
    traced = trace(specialize(made.module, made.arguments, made.constant))
    values = {key: value for key, value in leaf_names(made.inputs(1)) if isinstance(value, torch.Tensor)}
    feed = traced.feed(values)
    for form in FORMS.values():
        component = deploy(traced, form)
        segments = cut(component)
        with torch.no_grad():
            whole, parts = component.module(*feed.values()), run_segments(segments, feed)
        assert all(torch.equal(value, parts[spec.name]) for spec, value in zip(component.outputs, whole, strict=True))
        kinds = [structure(segment.module) for segment in segments]
        assert len(segments) >= 6 and len(set(kinds)) < len(kinds)
        inside = {name for segment in segments for name in map(segment.full, dict(segment.module.named_parameters()))}
        own = {name for name in inside if ".held." not in name}
        assert own and own <= dict(component.module.named_parameters()).keys()


def test_few_blocks_of_a_kind_are_written_whole():
    made = source(*FAMILIES["pixart"](layers=3))
    component = deploy(trace(specialize(made.module, made.arguments, made.constant)), FORMS["split"])
    assert not in_segments(component, least=REPEATS).segments
    assert len(in_segments(component, least=0).segments) == 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny FLUX.2 as diffusers saves it, in bf16 shards."""
    folder = tmp_path_factory.mktemp("diffusers") / "flux2"
    build(*FAMILIES["flux2"](layers=3)).bfloat16().save_pretrained(folder, max_shard_size="60KB")
    return folder


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    """So that a tiny network is taken as one that memory does not hold."""
    monkeypatch.setattr(mapped, "STREAMED", 1000)
    monkeypatch.setattr(mapped, "LARGE", 512)
    monkeypatch.setattr(recording, "HEAVY", 1000)


def line(folder, out, *more):
    return ["export", "--checkpoint", str(folder), "--tier", "high-phone", "--backend", "coreml", "--tokens", "8",
            "--resolution", "64x64", "--bits", "4", "--chunks", "2", "--out", str(out), *more]  # fmt: skip


@pytest.fixture(scope="module")
def bundle(folder, tmp_path_factory):
    """A bundle in two programs, whose weights were palettized from their file one by one."""
    out = tmp_path_factory.mktemp("chunks") / "bundle"
    with pytest.MonkeyPatch.context() as patched:
        for where, name, value in ((mapped, "STREAMED", 1000), (mapped, "LARGE", 512), (recording, "HEAVY", 1000)):
            patched.setattr(where, name, value)
        assert run(line(folder, out)) == 0
    return out


def test_a_streamed_network_in_chunks_verifies_itself(bundle, capsys):
    rows = json.loads((bundle / "verify.json").read_text())
    assert [row["component"] for row in rows] == ["network_1", "network_2", "network"]
    assert all(row["passed"] and row["psnr_db"] >= 60 for row in rows)
    made = load_bundle(bundle)
    assert made.networks == (("network", "coreml"),) and len(made.programs("network", "coreml")) == 2
    plan = made.manifest.pipeline["networks"]["network"]["palettes"]["plan"]
    assert len(plan) > 20 and set(plan.values()) == {4}
    capsys.readouterr()
    assert run(["verify", str(bundle), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["verify"]
    assert row["component"] == "network" and row["psnr_db"] == rows[-1]["psnr_db"]


def test_a_network_in_chunks_is_predicted_as_one(bundle, capsys):
    assert run(["bench", "--device", "iphone15pro", "--bundle", str(bundle), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["component"] == "network" and len(row["artifacts"]) == 2 and row["latency_ms"]["predicted"] > 0
    assert run(["recommend", "--device", "iphone15pro", "--bundle", str(bundle), "--json"]) == 0
    (option,) = json.loads(capsys.readouterr().out)["fitting"]
    assert option["runs"] == {"network": 1} and option["bits"] == 4
    made = load_bundle(bundle)
    first, second = made.programs("network", "coreml")
    cases = load_file(bundle / "cases" / "network.safetensors")
    recorded = {key: value.numpy() for key, value in cases.items() if key.startswith("0.in.")}
    whole = {f"0.in.{name}": value for name, value in inputs_of(made, [first, second]).items()}
    assert whole.keys() == recorded.keys() and all(
        np.array_equal(whole[key], recorded[key].astype(whole[key].dtype)) for key in recorded
    )
    feed = inputs_of(made, [second])  # alone on a device: of what the first gives there is no recording
    assert {name: value.shape for name, value in feed.items()} == {spec.name: spec.shape for spec in second.inputs}
    assert all(np.isfinite(value).all() and value.any() for value in feed.values())


def test_an_interrupted_export_goes_on_to_the_same_bytes(folder, bundle, tmp_path, monkeypatch, capsys):
    out, describe = tmp_path / "b" / "bundle", writing.describe

    def stop(root, backend, name, *rest):
        if name == "network_2":
            raise KeyboardInterrupt
        return describe(root, backend, name, *rest)

    monkeypatch.setattr(writing, "describe", stop)
    assert run(line(folder, out)) == 130
    assert "--resume goes on" in " ".join(capsys.readouterr().err.split()) and not out.exists()
    monkeypatch.setattr(writing, "describe", describe)
    assert run(line(folder, out, "--resume", "--bits", "8")) == 2
    assert "another bits" in capsys.readouterr().err
    made = []
    monkeypatch.setattr(writing, "describe", lambda *what: made.append(what[2]) or describe(*what))
    assert run(line(folder, out, "--resume")) == 0
    assert made == ["network_2"]
    files = [path.relative_to(bundle) for path in sorted(bundle.rglob("*")) if path.is_file()]
    assert files == [path.relative_to(out) for path in sorted(out.rglob("*")) if path.is_file()]
    assert all(digest(out / path) == digest(bundle / path) for path in files)


def spans_of(path):
    """The addresses at which a file is mapped into this process."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    return [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells what is mapped")
def test_weights_in_fp32_are_used_where_they_lie(tmp_path):
    build(*FAMILIES["pixart"]()).save_pretrained(tmp_path)
    (part,) = list_parts(tmp_path)
    module = load_part(part, streamed=True)
    (start, end), *_ = spans_of(tmp_path / "diffusion_pytorch_model.safetensors")
    assert all(start <= parameter.data_ptr() < end for parameter in module.parameters())


def test_a_streamed_network_computes_what_it_does_in_memory(folder):
    (part,) = list_parts(folder)
    whole, streamed = load_part(part), load_part(part, streamed=True)
    given = source(*FAMILIES["flux2"](layers=3)).inputs(1)
    with torch.no_grad(), streaming(streamed, streamed.stored):
        assert torch.equal(streamed(**given)[0], whole(**given)[0])
    with torch.no_grad():
        assert streamed(**given)[0].isnan().all()  # nothing stays behind


def test_streamed_layers_lose_what_their_outputs_do(folder):
    """What a run that streams says of each layer is its own error, computed from the network in memory."""
    (part,) = list_parts(folder)
    whole, seen = load_part(part), {}
    streamed, given = load_part(part, streamed=True), source(*FAMILIES["flux2"](layers=3)).inputs(0)
    made = Source("network", streamed, given, {}, fresh=lambda seed: given, stored=streamed.stored)
    for name in made.stored.tensors:
        layer = whole.get_submodule(name.removesuffix(".weight"))
        layer.register_forward_pre_hook(lambda _, inputs, name=name: seen.setdefault(name, inputs[0]))
    layers = {name: made.module.get_parameter(name) for name in made.stored.tensors}
    with torch.no_grad():
        whole(**given)
        found = measure_stored(made, layers, (4, 8), 0)
    assert len(found) > 20 and {one.name for one in found} == seen.keys()
    for one in found:
        weight = whole.get_parameter(one.name)
        for bits in (4, 8):
            change = palettize(weight, bits).dense() - weight.half().float()
            error = float(nn.functional.linear(seen[one.name], change).square().mean())
            assert 0 < one.output[bits] == pytest.approx(error, rel=1e-3)
    assert all(made.module.get_parameter(name).isnan().all() for name in layers)


def test_a_streamed_network_mixes_palettes_in_a_folder_of_its_own(folder, tmp_path, monkeypatch, capsys):
    """Written in shards that diffusers loads, and exported as it is; no weight is in memory before it is written."""
    out, bundle = tmp_path / "small", tmp_path / "bundle"
    monkeypatch.setattr(quantizing, "SHARD", 2**17)
    size = ["--resolution", "64x64", "--tokens", "8"]
    quantize = ["quantize", "--checkpoint", str(folder), "--bits", "5.5", *size, "--out", str(out), "--json"]
    assert run([*quantize, "--tune-steps", "3"]) == 2
    assert "which tuning needs" in " ".join(capsys.readouterr().err.split()) and not out.exists()
    assert run(quantize) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["plan"].values()) == {4, 8} and 5 < report["bits"] <= 5.5 and report["psnr_db"] > 10
    shards = sorted(out.glob("*.safetensors"))
    assert len(shards) > 2 and all(load_file(path) for path in shards)
    (part,) = list_parts(out)
    module, (plain,) = load_part(part, streamed=True), list_parts(folder)
    assert not len(module.stored)  # in fp32, used where they lie
    for name, before in load_part(plain).state_dict().items():
        after = module.get_parameter(name)
        assert (
            len(after.unique()) <= 2 ** report["plan"][name] if name in report["plan"] else torch.equal(after, before)
        )
    export = ["export", "--checkpoint", str(out), "--tier", "high-phone", "--backend", "coreml", *size]
    assert run([*export, "--out", str(bundle), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["verify"]
    assert row["passed"] and load_bundle(bundle).manifest.bits == pytest.approx(report["bits"], abs=1e-3)


@pytest.mark.parametrize(
    ("more", "said"),
    [(["--bits", "3.5"], "cannot be reached"), (["--backend", "onnx", "--chunks", "1"], "nothing that is exported can"),
     (["--chunks", "12"], "has 9 parts to cut between, 12 chunks"), (["--chunk-mib", "1"], "exclude each other")],
)  # fmt: skip
def test_what_cannot_be_is_refused(folder, tmp_path, capsys, more, said):
    assert run(line(folder, tmp_path / "b", *more)) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "b").exists()


def test_a_token_that_is_put_in_keeps_its_name_where_a_network_is_cut():
    """Z-Image's for what fills a caption: a choice between it and others, which no converter makes larger."""
    made = source(*FAMILIES["z_image"](layers=4))
    component = deploy(trace(specialize(made.module, made.arguments, made.constant)), FORMS["split"])
    first, specs = cut(component)[0], {spec.name: spec for spec in component.inputs}
    template = make_template(first, [specs[name] for name in first.inputs], "iOS17")
    inside = {first.full(name) for name in template.parameters.values()}
    assert "cap_embedder.1.weight" in inside and len(inside) > 20


class Scaled(nn.Module):
    """Blocks with a factor and a sum behind a convolution, which coremltools would fold into its weights."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))

    def forward(self, tokens):
        for block in self.blocks:
            tokens = block(tokens) * 0.5 + 1.0
        return tokens


def test_a_block_is_converted_once_though_a_factor_follows_its_weights():
    component = deploy(trace(specialize(Scaled().eval(), {"tokens": torch.ones(1, 32, 32)})), FORMS["split"])
    segment = cut(component)[1]
    template = make_template(segment, [TensorSpec("value", (1, 32, 1, 32))], "iOS17")
    assert set(template.parameters.values()) == {"layer.weight", "layer.bias"}
    assert len({structure(other.module) for other in cut(component)[1:3]}) == 1


class Doubling(nn.Module):
    """Blocks that compute with a weight before they use it."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))

    def forward(self, tokens):
        for block in self.blocks:
            tokens = torch.tanh(nn.functional.linear(block(tokens), block.weight * 2))
        return tokens


def test_a_weight_that_is_computed_with_cannot_stay_on_disk(tmp_path):
    module = Doubling().eval()
    stored = Stored({f"blocks.{n}.weight": torch.ones(32, 32).bfloat16() for n in range(4)})
    for name in stored.tensors:
        module.get_parameter(name).data = HELD.expand(32, 32)
    made = Source("network", module, {"tokens": torch.ones(1, 4, 32)}, {"kind": "test", "name": "d"}, stored=stored)
    with pytest.raises(Exception, match="not finite|streamed from disk"):
        exporting.export_sources("doubling", [made], load_tier("high-phone"), ["coreml"], tmp_path / "b")
    component = deploy(trace(specialize(module, made.arguments)), FORMS["split"])
    with pytest.raises(InputError, match="computes with weights of the network that are streamed"):
        writing.require_streamable(
            made, in_segments(component, stored.given(), 0), load_tier("high-phone").backend("coreml")
        )
    assert np.isnan(HELD.numpy()).all()
