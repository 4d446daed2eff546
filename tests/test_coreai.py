"""Core AI assets: what they hold, that Apple's runtime computes the same network, and that nothing it does harms us.

Tests of the runtime are skipped by name where the extra is not installed; those of its absence run everywhere.
"""

import importlib.metadata
import importlib.util
import json
import platform
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import decibels
from test_emit_palette import feed_of, plain, quantized
from tiny import TIER, tiny_checkpoint
from torch import nn

from edgegen.backends.registry import find_backend
from edgegen.cli import run
from edgegen.emit import coreai, coreml
from edgegen.emit.half import to_half_
from edgegen.emit.palette_coreai import check
from edgegen.emit.program import exported
from edgegen.emit.program_stamp import stamped
from edgegen.errors import EdgegenError, InputError
from edgegen.graph.read_coreai import read_coreai
from edgegen.graph.read_coreml import read_coreml
from edgegen.quantize.integers import round_to_nearest
from edgegen.quantize.layers import quantizable
from edgegen.quantize.palette import palettize
from edgegen.rewrite.component import Component, Form, TensorSpec
from edgegen.rewrite.rotary import quarter_turn
from edgegen.runtime.coreai import Guard, open_coreai
from edgegen.runtime.coreai_program import CoreAIProgram
from edgegen.target import list_tiers, load_tier

installed = pytest.mark.skipif(
    importlib.util.find_spec("coreai_torch") is None, reason="edgegen[coreai] is not installed"
)
PRECISIONS = {"split": "float16", "batched": "float32"}
COREAI = """
[backends.coreai]
default = false
attention = "split"
precision = "float16"
deployment_target = "iOS27"
floor_db = 40.0
"""


def written(component: Component, path: Path, weights=None, precision: str = "float16") -> Path:
    coreai.write(component, path, weights, precision)
    return path


def outputs_of(path: Path, feed: dict, precision: str) -> dict[str, np.ndarray]:
    return open_coreai(path)({name: value.astype(precision) for name, value in feed.items()})


class Products(nn.Module):
    """x (N, in) times each of several weights (out, in)."""

    def __init__(self, weights: dict):
        super().__init__()
        self.layers = nn.ModuleDict()
        for name, weight in weights.items():
            self.layers[name] = nn.Linear(*weight.shape[::-1], bias=False)
            self.layers[name].weight = nn.Parameter(weight.dense(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(layer(x) for layer in self.layers.values())


class Turned(nn.Module):
    """x (N, in) times a weight (out, in), then a constant."""

    def __init__(self, weight: torch.Tensor, turn: torch.Tensor):
        super().__init__()
        self.inner = nn.Linear(*weight.shape[::-1], bias=False)
        self.inner.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("turn", turn)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.inner(x), self.turn)


def values_there(weights: dict, path: Path, precision: str) -> dict[str, np.ndarray]:
    """Stored weights (out, in) as Apple's runtime unfolds them: their products with the identity."""
    out, size = next(iter(weights.values())).shape
    outputs = tuple(TensorSpec(name, (size, out)) for name in weights)
    component = Component("products", Products(weights), (TensorSpec("x", (size, size)),), outputs, "split")
    written(component, path, {f"layers.{name}.weight": weight for name, weight in weights.items()}, precision)
    return {name: value.T for name, value in outputs_of(path, {"x": np.eye(size)}, precision).items()}


@pytest.fixture(scope="module")
def assets(tmp_path_factory) -> Callable[[str], Path]:
    """The asset of the small network: split in float16, batched in float32; each is written once."""
    folder, made = tmp_path_factory.mktemp("coreai"), {}

    def asset(attention: str) -> Path:
        if attention not in made:
            component, _, _ = feed_of(plain(), Form(attention))
            made[attention] = written(
                component, folder / attention / "transformer.aimodel", None, PRECISIONS[attention]
            )
        return made[attention]

    return asset


# ---- the absence of the extra ---------------------------------------------------------------------------------------


@pytest.fixture
def missing(monkeypatch):
    """A machine without Apple's packages."""
    known = importlib.metadata.version

    def version(name: str) -> str:
        if name.startswith("coreai"):
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_without_the_extra_export_says_so_in_one_line_and_writes_nothing(missing, tmp_path, capfd):
    code = run(["export", "--tier", "low-android", "--backend", "coreai", "--out", str(tmp_path / "bundle")])
    told = capfd.readouterr().err.strip()
    assert code == 2 and len(told.splitlines()) == 1
    assert "coreai-core" in told and "pip install 'edgegen[coreai]'" in told
    assert not list(tmp_path.iterdir())


def test_without_the_extra_doctor_says_which_to_install(missing):
    health = find_backend("coreai").examine()
    assert not (health.convert.works or health.verify.works or health.run.works)
    assert "pip install 'edgegen[coreai]'" in health.convert.note


@pytest.mark.parametrize("found", ["0.9.0", "1.0.0b2", "2.0"])
def test_another_version_is_named_with_the_one_that_is_known(found, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: found)
    with pytest.raises(
        InputError, match=f"coreai-core {found} is installed; edgegen knows {coreai.PACKAGES['coreai-core']}"
    ):
        coreai.require()


PLACES = [  # what platform says, and what is told
    (("Linux", "aarch64", "", "2.39"), "Linux on aarch64"),
    (("Linux", "x86_64", "", "2.31"), "glibc 2.31"),
    (("Darwin", "x86_64", "27.0", ""), "macOS 27.0 on x86_64"),
    (("Darwin", "arm64", "15.7.1", ""), "macOS 15.7.1 on arm64"),
    (("Windows", "AMD64", "", ""), "Windows on AMD64"),
]


def settle(monkeypatch, system: str, machine: str, macos: str, glibc: str) -> None:
    """Another machine."""
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "mac_ver", lambda: (macos, ("", "", ""), machine if macos else ""))
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", glibc) if glibc else ("", ""))


@pytest.mark.parametrize(("place", "told"), PLACES)
def test_a_platform_without_wheels_is_said_by_doctor_and_by_export_before_work(
    place, told, monkeypatch, tmp_path, capfd
):
    settle(monkeypatch, *place)
    health = find_backend("coreai").examine()
    assert not health.convert.works and f"do not exist for {told}." in health.convert.note
    user = tmp_path / "net.py"
    user.write_text("def build():\n    raise SystemExit('the file ran')\n")
    ways = (["--tier", "low-android"], ["--tier", "low-android", "--module", f"{user}:build"])
    for way in ways:
        code = run(["export", *way, "--backend", "coreai", "--out", str(tmp_path / "bundle")])
        lines = capfd.readouterr().err.strip().splitlines()
        assert code == 2 and len(lines) == 1 and told in lines[0] and "glibc 2.34" in lines[0]
    assert list(tmp_path.iterdir()) == [user]


@pytest.mark.parametrize(("version", "runs"), [("26.4", False), ("27.0", True), ("28.1", True)])
def test_a_mac_runs_it_from_27_on(version, runs, monkeypatch):
    settle(monkeypatch, "Darwin", "arm64", version, "")
    assert coreai.unsupported() == "" and find_backend("coreai").runs_here() is runs


def test_packages_that_do_not_load_are_one_line(monkeypatch):
    def fail(name: str):
        raise OSError("libcoreai.so: cannot open shared object file\nmore")

    monkeypatch.setattr(coreai, "PACKAGES", {})
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(InputError, match=r"do not load here: libcoreai\.so: cannot open shared object file\."):
        coreai.require()


def test_tiers_give_it_on_request_only():
    for tier in list_tiers():
        assert tier.backend("coreai").deployment_target == "iOS27"
        assert tier.default_backends == ("coreml", "onnx", "executorch")


def test_a_default_that_is_no_truth_value_is_an_error(tmp_path):
    path = tmp_path / "tier.toml"
    path.write_text(TIER + COREAI.replace("false", '"no"'))
    with pytest.raises(InputError, match=r"backends\.coreai\.default must be true or false"):
        load_tier(str(path))


def test_palettes_of_three_bits_are_refused():
    weight = palettize(torch.randn(8, 8), 3)
    with pytest.raises(InputError, match=r"down\.weight has a palette of 3 bits; Core AI packs 1, 2, 4, 6, 8"):
        check({"down.weight": weight})


def test_a_program_in_half_leaves_its_module_alone():
    component, _, _ = feed_of(plain(), Form("split"))
    before = [tensor.clone() for tensor in component.module.parameters()]
    program = exported(component).run_decompositions({})
    to_half_(program)
    types = {node.meta["val"].dtype for node in program.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)}
    assert types == {torch.float16}
    after = list(component.module.parameters())
    assert len(after) > 50 and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("attention", ["split", "batched"])
def test_a_program_of_stamped_layers_computes_the_network_with_each_layer_prepared_once(attention):
    component, feed, _ = feed_of(plain(), Form(attention))
    made = []
    program = stamped(component, lambda part: made.append(part) or part)
    assert 0 < len(made) < len(component.segments)
    names = program.graph_signature.inputs_to_parameters | program.graph_signature.inputs_to_buffers
    assert set(program.graph_signature.parameters) == {name for name, _ in component.module.named_parameters()}
    given = {name: torch.from_numpy(value) for name, value in feed.items()}
    held = [node.name for node in program.graph.nodes if node.op == "placeholder"]
    values = [program.state_dict[names[name]] if name in names else given[name] for name in held]
    (velocity,) = torch.fx.Interpreter(program.graph_module).run(*values)
    with torch.no_grad():
        assert torch.equal(velocity, component.module(*given.values())) and velocity.abs().max() > 0


# ---- what an asset holds and computes -------------------------------------------------------------------------------


@installed
@pytest.mark.parametrize(("attention", "floor"), [("split", 45), ("batched", 100)])
def test_the_runtime_computes_the_network(attention, floor, assets):
    component, feed, reference = feed_of(plain(), Form(attention))
    made = outputs_of(assets(attention), feed, PRECISIONS[attention])["velocity"]
    assert made.dtype == PRECISIONS[attention] and decibels(reference, made) >= floor
    program = CoreAIProgram.load(assets(attention))
    assert [info.name for info in program.inputs] == [spec.name for spec in component.inputs]
    assert {info.dtype for info in (*program.inputs, *program.outputs)} == {PRECISIONS[attention]}


@installed
def test_every_weight_keeps_its_name(assets):
    program, names = CoreAIProgram.load(assets("split")), quantizable(plain())
    assert len(names) > 10 and set(names) <= {constant.name for constant in program.constants()}
    assert "down.0.attn.q" in {operation.name for operation in program.operations()}  # layers are called after them


@installed
def test_palettes_of_mixed_bits_are_stored_packed_without_a_float_copy(assets, tmp_path):
    """The asset is as large as that without those weights, plus indices and palettes, within 10 % and 400 bytes each:
    names, places and small constants.
    """
    model, weights = quantized(bits=(4, 8))
    weights = {name: weights[name] for name in quantizable(model)}
    component, feed, reference = feed_of(model, Form("split"))
    path, dense = written(component, tmp_path / "transformer.aimodel", weights), assets("split")
    assert decibels(reference, outputs_of(path, feed, "float16")["velocity"]) >= 45
    program = CoreAIProgram.load(path)
    constants = {constant.name: constant for constant in program.constants()}
    for name, weight in weights.items():
        assert constants[f"{name}.indices"].dtype == f"uint{weight.bits}"
        assert constants[f"{name}.palette"].dtype == "int8" and constants[f"{name}.scale"].dtype == "float16"
        assert name not in constants
    size = {p: (p / "main.mlirb").stat().st_size for p in (path, dense)}
    elements = sum(np.prod(weight.shape) for weight in weights.values())
    saved = 2 * elements - sum(weight.nbytes for weight in weights.values())
    assert size[path] <= 1.1 * (size[dense] - saved) + 400 * len(weights)
    graph = read_coreai(path)
    assert graph.parameters >= elements
    for bits in (4, 8):
        held = sum(np.prod(weight.shape) for weight in weights.values() if weight.bits == bits)
        assert graph.storage[f"uint{bits}"] == held > 0


@installed
@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_stored_weights_unfold_to_the_values_of_the_other_back_ends_bit_by_bit(precision, tmp_path):
    """ONNX and ExecuTorch have `dense()` in float32, Core ML the same rounded to float16."""
    dense = torch.randn(24, 32) * 0.05
    weights = {f"palette{bits}": palettize(dense, bits) for bits in (1, 2, 4, 6, 8)}
    assert all(float(np.float16(weight.scale)) == weight.scale for weight in weights.values())
    weights["odd"] = replace(weights["palette4"], scale=0.0012345678)  # no float16 is this
    weights |= {"tables": palettize(dense, 4, int8=False), "int8": round_to_nearest(dense, 8)}
    weights["int4"] = round_to_nearest(dense, 4, 16)
    found = values_there(weights, tmp_path / "products.aimodel", precision)
    for name, weight in weights.items():
        np.testing.assert_array_equal(found[name], weight.dense().numpy().astype(precision), err_msg=name)


@installed
def test_constants_of_few_values_are_packed_beside_palettes_and_keep_them(tmp_path):
    """Only there: a program without quantized weights stays as Apple's converter makes it."""
    turn = quarter_turn(32)
    weight = palettize(torch.randn(32, 32), 4)
    module = Turned(weight.dense(), turn)
    component = Component("turned", module, (TensorSpec("x", (32, 32)),), (TensorSpec("y", (32, 32)),), "split")
    paths = [
        written(component, tmp_path / f"{n}.aimodel", w) for n, w in (("a", None), ("b", {"inner.weight": weight}))
    ]
    plain_one, packed = (outputs_of(path, {"x": np.eye(32)}, "float16")["y"] for path in paths)
    np.testing.assert_array_equal(plain_one, packed)
    np.testing.assert_array_equal(packed, (weight.dense().half().T @ turn.half().T).numpy())
    stored = [read_coreai(path).storage for path in paths]
    assert "uint2" not in stored[0] and stored[1]["uint2"] == turn.numel()


@installed
def test_a_weight_that_is_not_in_the_program_or_has_other_values_is_an_error(tmp_path):
    model, weights = quantized(bits=(4,))
    component, _, _ = feed_of(model, Form("batched"))
    name, weight = next(iter(weights.items()))
    with pytest.raises(EdgegenError, match="no constant of nowhere"):
        coreai.write(component, tmp_path / "a.aimodel", {"nowhere": weight})
    other = palettize(torch.randn(weight.shape), 4)
    with pytest.raises(EdgegenError, match=f"the Core AI constant of {name} is not the quantized weight"):
        coreai.write(component, tmp_path / "b.aimodel", {name: other})
    assert not list(tmp_path.iterdir())


# ---- the runtime's process ------------------------------------------------------------------------------------------


@pytest.fixture
def asset(assets) -> Path:
    return assets("batched")


@pytest.fixture
def scratch(tmp_path, monkeypatch) -> Path:
    """Where temporary folders go."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@installed
@pytest.mark.parametrize(
    ("guard", "told"),
    [
        (Guard(load_seconds=0.01), "did not load transformer.aimodel within 0.01 s"),
        (Guard(bytes=2**26), "did not load transformer.aimodel: "),
    ],
)
def test_a_model_that_takes_too_much_is_stopped(asset, scratch, guard, told):
    with pytest.raises(EdgegenError, match=told):
        open_coreai(asset, guard)
    assert not list(scratch.iterdir())


@installed
def test_a_crash_of_the_runtime_is_an_error_of_ours(tmp_path):
    broken = tmp_path / "broken.aimodel"
    broken.mkdir()
    (broken / "main.mlirb").write_bytes(b"ML\xefR" + bytes(64))
    (broken / "metadata.json").write_text('{"assetVersion": "2.0"}')
    with pytest.raises(EdgegenError, match=r"did not load broken\.aimodel: "):
        open_coreai(broken)
    with pytest.raises(InputError, match="no Core AI asset"):
        CoreAIProgram.load(broken)


@installed
def test_wrong_inputs_end_the_process_with_its_reason_and_later_calls_say_so(asset):
    loaded = open_coreai(asset)
    with pytest.raises(EdgegenError, match=r"did not run transformer\.aimodel: exit code 1: RuntimeError"):
        loaded({"latent": np.zeros((1, 2), np.float32)})
    with pytest.raises(EdgegenError, match="has ended"):
        loaded({})


@installed
def test_a_model_is_loaded_once_and_its_process_ends_with_it(asset, scratch):
    component, feed, _ = feed_of(plain(), Form("batched"))
    loaded = open_coreai(asset)
    feed = {name: value.astype(np.float32) for name, value in feed.items()}
    first, second = loaded(feed)["velocity"], loaded(feed)["velocity"]
    np.testing.assert_array_equal(first, second)
    assert len(list(scratch.iterdir())) == 1
    del loaded
    assert not list(scratch.iterdir())


# ---- the lint -------------------------------------------------------------------------------------------------------


@installed
@pytest.mark.parametrize("attention", ["batched", "split"])
def test_the_lint_reads_the_program(attention, assets):
    """The form and precision that the Neural Engine's rules ask for break none of those about them."""
    rules = {finding.rule for finding in find_backend("coreai").lint(assets(attention))}
    about_form = {"ANE003", "ANE005", "ANE006", "ANE007"}
    assert rules & about_form == (about_form if attention == "batched" else set())
    assert "ANE002" in rules and not rules & {"ANE001", "ANE009"}


@installed
def test_costs_are_those_of_the_same_network_in_core_ml(assets, tmp_path):
    component, _, _ = feed_of(plain(), Form("split"))
    coreml.write(component, tmp_path / "transformer.mlpackage")
    ours = read_coreai(assets("split")).totals
    theirs = read_coreml(tmp_path / "transformer.mlpackage").totals
    assert ours.macs == theirs.macs > 0 and ours.scores == theirs.scores


# ---- the whole way --------------------------------------------------------------------------------------------------


@installed
def test_export_verify_inspect_generate_and_doctor(tmp_path, capfd):
    def output(*words) -> dict:
        capfd.readouterr()
        code = run([*map(str, words), "--json"])
        told = capfd.readouterr()
        assert code == 0, told.err
        return json.loads(told.out)

    tier = tmp_path / "tier.toml"
    tier.write_text(TIER + COREAI)
    checkpoint, bundle = tiny_checkpoint(tmp_path / "checkpoint"), tmp_path / "bundle"
    made = output("export", "--tier", tier, "--checkpoint", checkpoint, "--backend", "coreai", "--out", bundle)
    names = {"text_encoder", "transformer", "decoder"}
    assert {row["component"] for row in made["verify"]} == names | {"picture"}
    assert all(row["passed"] and row["evaluator"].startswith("coreai-core") for row in made["verify"])
    assert {path.name for path in (bundle / "coreai").iterdir()} == {f"{name}.aimodel" for name in names}
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["tool_versions"]["coreai-core"] == coreai.PACKAGES["coreai-core"]
    assert {spec["dtype"] for part in manifest["components"] for spec in part["inputs"]} == {"float16", "int32"}
    assert output("verify", bundle)["passed"]
    contents = output("inspect", bundle)["components"]
    assert len(contents) == 3 and all(part["operations"] for part in contents)
    drawn = output("generate", "a red heart", "--bundle", bundle, "--out", tmp_path / "heart.png")
    assert drawn["backend"] == "coreai" and (tmp_path / "heart.png").is_file()
    (bundle / "coreai" / "decoder.aimodel" / "main.mlirb").write_bytes(b"nothing")
    assert run(["verify", str(bundle)]) == 2
    health = next(h for h in output("doctor")["backends"] if h["backend"] == "coreai")
    assert health["convert"]["works"] and health["verify"]["works"]


# ---- networks of others ---------------------------------------------------------------------------------------------


@installed
@pytest.mark.parametrize(
    ("family", "precision", "floor"),
    [("pixart", "float32", 100.0), ("sd3", "float16", 45.0), ("flux", "float16", 45.0)],
)
def test_a_folder_of_diffusers_goes_the_same_way(family, precision, floor, tmp_path, capfd):
    pytest.importorskip("diffusers", reason="edgegen[models] is not installed")
    from foreign import FAMILIES, build

    folder, tier = tmp_path / family, tmp_path / "tier.toml"
    build(*FAMILIES[family](layers=1)).save_pretrained(folder)
    wanted = COREAI.replace("float16", precision).replace("40.0", str(floor))
    tier.write_text(TIER + wanted)
    asked = ["--checkpoint", str(folder), "--resolution", "64x64", "--tokens", "8", "--out", str(tmp_path / "bundle")]
    capfd.readouterr()
    code = run(["export", *asked, "--tier", str(tier), "--backend", "coreai", "--json"])
    told = capfd.readouterr()
    assert code == 0, told.err
    (row,) = json.loads(told.out)["verify"]
    assert row["passed"] and row["floor_db"] == floor and row["evaluator"].startswith("coreai-core")


@installed
def test_a_module_of_the_users_own_goes_the_same_way_with_palettes(tmp_path, capfd):
    from test_foreign import MODULE

    (tmp_path / "net.py").write_text(MODULE)
    out = tmp_path / "bundle"
    asked = ["--module", f"{tmp_path / 'net.py'}:build", "--tier", "high-phone", "--backend", "coreai", "--bits", "6"]
    capfd.readouterr()
    code = run(["export", *asked, "--out", str(out), "--json"])
    told = capfd.readouterr()
    assert code == 0, told.err
    (row,) = json.loads(told.out)["verify"]
    assert row["passed"] and row["psnr_db"] >= 45
    assert {"uint4", "uint8"} & set(read_coreai(out / "coreai" / "network.aimodel").storage)
    assert run(["verify", str(out)]) == 0
