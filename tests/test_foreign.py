"""Folders of diffusers and modules of the user's own: taken whole, verified, or refused in one line."""

import json
import shutil
import struct

import numpy as np
import pytest
import torch
from foreign import FAMILIES, build, source
from safetensors.torch import load_file, save_file

from edgegen.bundle import load_bundle
from edgegen.cli import run
from edgegen.errors import InputError
from edgegen.foreign.families.registry import FAMILIES as DECLARED
from edgegen.foreign.folder import check_weights, is_foreign, list_parts, load_part
from edgegen.foreign.lora import merge_lora_
from edgegen.foreign.module_file import load_module, parse_inputs
from edgegen.foreign.ranges import measure_ranges

WEIGHTS = "diffusion_pytorch_model.safetensors"
MODULE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.norm = nn.Linear(8, 64), nn.LayerNorm(64)
        self.attn, self.out = nn.MultiheadAttention(64, 4, batch_first=True), nn.Linear(64, 8)
    def forward(self, tokens, time):
        h = self.norm(self.inner(tokens) + time[:, None, None])
        return self.out(h + self.attn(h, h, h, need_weights=False)[0])
def build():
    torch.manual_seed(0)
    return Net(), {"tokens": torch.randn(1, 32, 8), "time": torch.tensor([1.5])}
def bare():
    return Net()
def fails():
    raise ValueError("no weights here")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny PixArt as diffusers saves it."""
    folder = tmp_path_factory.mktemp("diffusers") / "pixart"
    build(*FAMILIES["pixart"]()).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to break."""
    return shutil.copytree(saved, tmp_path / "pixart")


@pytest.fixture(scope="module")
def user_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("user") / "my_model.py"
    path.write_text(MODULE)
    return path


def test_a_folder_becomes_a_bundle_that_verifies_itself(saved, tmp_path, capsys):
    out = tmp_path / "bundle"
    asked = ["--checkpoint", str(saved), "--tier", "high-phone", "--backend", "onnx", "--resolution", "64x64"]
    assert run(["export", *asked, "--tokens", "8", "--out", str(out), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["verify"]
    assert row["passed"] and row["inputs"] == 3 and row["psnr_db"] >= 100
    manifest = load_bundle(out).manifest
    network = manifest.pipeline["networks"]["network"]
    assert manifest.to_dict()["format_version"] == 2
    assert network["family"] == "pixart" and network["sinusoids"][0]["source"] == "timestep"
    assert run(["verify", str(out)]) == 0
    assert run(["inspect", str(out), "--json"]) == 0
    capsys.readouterr()
    cases = out / network["cases"]["path"]
    tensors = load_file(cases)
    save_file({k: v * 1.01 for k, v in tensors.items()}, cases)
    assert run(["verify", str(out)]) == 2
    assert "has changed" in capsys.readouterr().err


def test_a_module_of_the_users_own(user_file, tmp_path, capsys):
    out = tmp_path / "bundle"
    asked = ["--module", f"{user_file}:build", "--tier", "high-phone", "--backend", "onnx", "--bits", "4.5"]
    assert run(["export", *asked, "--out", str(out), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["verify"][0]["passed"] and made["networks"]["network"]["palettes"]["bits"] <= 4.5
    assert run(["verify", str(out)]) == 0


def test_example_inputs_in_words():
    made = parse_inputs("latent=1x4x8x8,mask=1x8:bool,t=1:int64")
    assert [tuple(v.shape) for v in made.values()] == [(1, 4, 8, 8), (1, 8), (1,)]
    assert made["mask"].dtype is torch.bool and made["t"].dtype is torch.int64
    for wrong in ("latent", "x=1xx2", "x=2:float8", ""):
        with pytest.raises(InputError, match="--inputs"):
            parse_inputs(wrong)


@pytest.mark.parametrize(
    ("reference", "said"),
    [("nowhere.py:build", "does not exist"), ("my_model.py", "FILE.py:FUNCTION"), ("FILE:absent", "no function absent"),
     ("FILE:bare", "no example inputs"), ("FILE:fails", "no weights here")],
)  # fmt: skip
def test_modules_that_cannot_be_made(user_file, reference, said):
    with pytest.raises(InputError, match=said):
        load_module(reference.replace("FILE", str(user_file)))


def broken_missing(folder):
    tensors = load_file(folder / WEIGHTS)
    del tensors["transformer_blocks.1.attn1.to_q.weight"]
    save_file(tensors, folder / WEIGHTS)


def broken_unexpected(folder):
    save_file(load_file(folder / WEIGHTS) | {"lora.up.weight": torch.ones(2)}, folder / WEIGHTS)


def broken_pickle(folder):
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")


def broken_gguf(folder):
    (folder / WEIGHTS).rename(folder / "model.gguf")


def broken_index(folder):
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": "part-1-of-2.safetensors"}}))


def broken_code(folder):
    (folder / "pipeline.py").write_text("raise SystemExit")


def broken_map(folder):
    edit(folder, auto_map={"AutoModel": "modeling.Mine"})


def broken_quantized(folder):
    edit(folder, quantization_config={"quant_method": "bitsandbytes"})


def broken_class(folder):
    edit(folder, _class_name="NoSuchTransformer")


def broken_cut(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def broken_fp8(folder):
    header = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + bytes(2))


def edit(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize(
    ("break_", "said"),
    [(broken_missing, "transformer_blocks.1.attn1.to_q.weight"), (broken_unexpected, "lora.up.weight"),
     (broken_pickle, "pickle"), (broken_gguf, "gguf"), (broken_index, "part-1-of-2"), (broken_code, "never run"),
     (broken_map, "never run"), (broken_quantized, "bitsandbytes"), (broken_class, "NoSuchTransformer"),
     (broken_cut, "cannot be read"), (broken_fp8, "F8_E4M3")],
)  # fmt: skip
def test_folders_that_are_refused(folder, tmp_path, capsys, break_, said):
    """One line that names what is wrong, exit code 2, nothing written."""
    break_(folder)
    out = tmp_path / "bundle"
    asked = ["--checkpoint", str(folder), "--backend", "onnx", "--resolution", "64x64", "--tokens", "8"]
    assert run(["export", *asked, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert said in " ".join(error.split()) and "Traceback" not in error
    assert not out.exists()


def test_no_option_runs_a_folders_code(saved, tmp_path, capsys):
    """--module names a file of the user's own instead."""
    for flag in ("--trust-code", "--trust-remote-code"):
        assert run(["export", "--checkpoint", str(saved), flag, "--out", str(tmp_path / "bundle")]) == 2
        assert "No such option" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "bundle").exists()


def test_half_precision_and_shards_load_in_fp32(tmp_path):
    module = build(*FAMILIES["pixart"]())
    whole = {name: value.clone() for name, value in module.state_dict().items()}
    module.half().save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    (part,) = list_parts(tmp_path)
    loaded = load_part(part).state_dict()
    assert all(value.dtype is torch.float32 for value in loaded.values() if value.is_floating_point())
    assert all(np.allclose(loaded[name], whole[name].half().float()) for name in whole)
    next(iter(tmp_path.glob("*.safetensors"))).unlink()
    with pytest.raises(InputError, match="not there"):
        check_weights(tmp_path)


def test_our_own_checkpoints_are_not_foreign(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"format_version": 1}))
    assert not is_foreign(tmp_path)


def test_declarations_name_classes_that_diffusers_has():
    import diffusers

    assert len({family.name for family in DECLARED}) == len(DECLARED) >= 9
    for family in DECLARED:
        for name in (family.transformer, *family.pipelines):
            assert hasattr(diffusers, name), name


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def test_lora_is_merged_or_refused():
    module = build(*FAMILIES["pixart"]())
    name = "transformer_blocks.0.attn1.to_q"
    before = module.get_parameter(f"{name}.weight").clone()
    down, up = noise(4, 48), noise(48, 4)
    keys = {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
    assert merge_lora_(module, keys, scale=0.5) == 1
    assert torch.allclose(module.get_parameter(f"{name}.weight"), before + 0.5 * up @ down, atol=1e-5)
    for wrong in (keys | {"transformer.nowhere.lora_A.weight": down}, {f"{name}.lora_A.weight": down}, {}):
        now = module.get_parameter(f"{name}.weight").clone()
        with pytest.raises(InputError, match="find no layer"):
            merge_lora_(module, wrong)
        assert torch.equal(module.get_parameter(f"{name}.weight"), now)


def test_ranges_name_the_layer_that_leaves_fp16():
    made = source(*FAMILIES["pixart"]())
    assert all(found.fits for found in measure_ranges(made, 1))
    made.module.get_submodule("transformer_blocks.1.ff.net.2").weight.data *= 1e6
    outside = [found.layer for found in measure_ranges(made, 1) if not found.fits]
    assert "transformer_blocks.1.ff.net.2" in outside and "transformer_blocks.0.ff.net.2" not in outside


@pytest.mark.parametrize(("name", "backend"), [("pixart", "coreml"), ("sana", "onnx")])
def test_a_quantized_folder_is_diffusers_own_and_exports_its_palettes(name, backend, tmp_path, capsys):
    folder, out, bundle = (tmp_path / part for part in ("plain", "small", "bundle"))
    build(*FAMILIES[name](heads=6)).save_pretrained(folder)
    size = ["--resolution", "64x64", "--tokens", "8"]
    tuned = ["--tune-steps", "30"]
    quantize = ["quantize", "--checkpoint", str(folder), "--bits", "4.3", *size, *tuned, "--out", str(out), "--json"]
    assert run(quantize) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tuned"]["steps"] == 30 and report["tuned"]["error_after"] < 0.9 * report["tuned"]["error_before"]
    before, after = load_file(folder / WEIGHTS), load_file(out / WEIGHTS)
    moved = {key for key in before if not torch.equal(before[key], after[key])} - report["plan"].keys()
    assert moved and all(before[key].ndim == 1 or key.endswith("scale_shift_table") for key in moved)
    assert 4 <= report["bits"] <= 4.3 and report["bytes"] < 0.4 * report["bytes_float16"] and report["psnr_db"] > 10
    (part,) = list_parts(out)
    module, plan = load_part(part), report["plan"]
    assert set(plan.values()) <= {4, 8} and len(plan) > 5
    assert all(len(module.get_parameter(key).unique()) <= 2**bits for key, bits in plan.items())

    export = ["export", "--checkpoint", str(out), "--backend", backend, *size]
    assert run([*export, "--bits", "4.3", "--out", str(bundle)]) == 2
    assert "already quantized" in capsys.readouterr().err
    assert run([*export, "--tier", "high-phone", "--out", str(bundle), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["verify"][0]["passed"] and made["components"][0]["bytes"] < 0.55 * report["bytes_float16"]
    assert load_bundle(bundle).manifest.bits <= 4.3

    tensors = load_file(out / WEIGHTS)
    tensors[next(iter(plan))] += 0.5
    save_file(tensors, out / WEIGHTS)
    assert run([*export, "--out", str(tmp_path / "other")]) == 2
    assert "not what the weights hold" in " ".join(capsys.readouterr().err.split())
