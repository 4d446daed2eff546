"""Powers of two that keep a network within fp16: the same numbers, none too large, and a refusal by name."""

import json
import math

import numpy as np
import pytest
import torch
from foreign import FAMILIES, source
from pipelines import save_pipeline
from safetensors.torch import load_file, save_file
from test_capture import EXACT_DB
from test_foreign_parts import DECODERS, TEXTS
from torch import nn

import edgegen.capture.exponents as exponents
from edgegen.bundle import load_bundle
from edgegen.capture.deploy import deploy, trace
from edgegen.capture.exponents import FP16_MAX, LARGEST, mend_, ranges_of
from edgegen.capture.specialize import specialize
from edgegen.cli import run
from edgegen.emit import coreml
from edgegen.errors import EdgegenError
from edgegen.foreign.export import export_sources, record
from edgegen.foreign.scaling import mended_
from edgegen.foreign.sources import Size, open_sources
from edgegen.rewrite.component import Form
from edgegen.runtime.coreml import CoreMLProgram
from edgegen.target import load_tier
from edgegen.verify import psnr


def grown(name: str, layer: str, factor: float):
    """A family's tiny network, one layer of which gives numbers so many times as large."""
    made = source(*FAMILIES[name]())
    for parameter in made.module.get_submodule(layer).parameters():
        parameter.data *= factor
    return made


def recorded_part(name, folder):
    if name in FAMILIES:
        return record(source(*FAMILIES[name]()))
    (DECODERS | TEXTS)[name]().save_pretrained(folder / "part")
    (made,) = open_sources(folder / "part", Size(16, 16, 12)).sources
    return record(made)


@pytest.mark.parametrize("name", [*FAMILIES, "kl, 4 channels", "dc", "qwen", "t5", "gemma2"])
def test_a_scaled_network_computes_the_same(name, tmp_path, monkeypatch):
    """As if fp16 ended at 2: nearly everything is scaled, and nothing refused."""
    recorded = recorded_part(name, tmp_path)
    component = deploy(recorded.traced, Form("split", query_chunk=8))
    feed = [torch.from_numpy(recorded.cases[0].feed[spec.name]) for spec in component.inputs]
    with torch.no_grad():
        expected = component.module(*feed)
    largest = ranges_of(component.module, [feed])
    monkeypatch.setattr(exponents, "LARGEST", 2.0)
    monkeypatch.setattr(exponents, "FP16_MAX", math.inf)
    told = mend_(component.module, largest)
    assert len(told) > 3 and all(exponent > 0 for exponent in told.values())
    with torch.no_grad():
        made = component.module(*feed)
    assert all(psnr(e.numpy(), m.numpy()) >= EXACT_DB for e, m in zip(expected, made, strict=True))
    after = ranges_of(component.module, [feed])
    assert sum(peak > 2 for peak in after.values()) < 0.7 * sum(peak > 2 for peak in largest.values())


class Rules(nn.Module):
    """What is done to large numbers, and makes small ones of them."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(24, 24), nn.Linear(24, 24), nn.GroupNorm(4, 24)

    def forward(self, x):
        big = self.a(x) * 1e5
        chosen = torch.where(x > 0, big, -big / 3)
        ratio = (big - 7.0) / (chosen * chosen + 1e8)
        joined = torch.relu(torch.cat([self.b(big + 2.0), x], 1)).mean(1, keepdim=True) / 1e5
        normed = self.norm(self.b(big).transpose(1, 2)).transpose(1, 2)
        products = (big @ big.transpose(-1, -2)) * 1e-12
        return torch.sigmoid(joined) + ratio * 100 + normed + products @ x


def test_every_rule_keeps_the_numbers_within_fp16():
    torch.manual_seed(0)
    module, x = Rules().eval(), torch.randn(1, 9, 24)
    component = deploy(trace(specialize(module, {"x": x})), Form("split"))
    largest = ranges_of(component.module, [[x]])
    assert max(largest.values()) > 1e9
    with torch.no_grad():
        mend_(component.module, largest)
        assert psnr(module(x).numpy(), component.module(x)[0].numpy()) >= EXACT_DB
    assert 1 < max(ranges_of(component.module, [[x]]).values()) <= LARGEST


class Normed(nn.Module):
    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm, self.out = norm, nn.Linear(64, 64)

    def forward(self, x):
        return self.out(self.norm(x))


@pytest.mark.parametrize("norm", [nn.RMSNorm(64, eps=1e-6), nn.LayerNorm(64)])
def test_tokens_of_large_numbers_do_not_make_others_vanish_in_a_norm(norm, tmp_path):
    """As what a text begins with has them; in fp16, and judged by each token alone."""
    torch.manual_seed(0)
    module, x = Normed(norm).eval().requires_grad_(False), torch.randn(1, 6, 64)
    x *= torch.tensor([0.2, 4e3, 1.0, 30.0, 1e3, 5.0])[:, None]
    component = deploy(trace(specialize(module, {"x": x})), Form("split"))
    assert mend_(component.module, ranges_of(component.module, [[x]]))["x"] > 0  # told, though nothing else is scaled
    coreml.write(component, tmp_path / "normed.mlpackage")
    program = CoreMLProgram.load(tmp_path / "normed.mlpackage")
    made = program.run({"x": x.numpy().astype(np.float16)}, fp16=True)[component.outputs[0].name]
    expected = module(x).numpy()
    assert all(psnr(expected[:, i], np.asarray(made[:, i], np.float32)) >= 60 for i in range(6))


def test_a_network_beyond_fp16_is_written_scaled_and_told(tmp_path):
    made = grown("z_image", "layers.0.feed_forward.w3", 1e6)
    result = export_sources("grown", [made], load_tier("high-phone"), ["coreml", "onnx"], tmp_path / "bundle")
    assert min(row.psnr_db for row in result.rows) >= 60 and len(result.rows) == 2
    told = load_bundle(tmp_path / "bundle").manifest.pipeline["networks"]["network"]["backends"]
    assert told["coreml"]["scaled"]["layers.0.feed_forward.w3"] >= 8 and "scaled" not in told["onnx"]


def test_headroom_is_left_for_other_inputs():
    recorded = record(grown("pixart", "transformer_blocks.1.ff.net.2", 1e6))
    component = deploy(recorded.traced, Form("split"))
    assert mended_(recorded, component)["transformer_blocks.1.ff.net.2"] == math.ceil(math.log2(2438538 / LARGEST))
    feeds = [[torch.from_numpy(case.feed[spec.name]) for spec in component.inputs] for case in recorded.cases]
    assert 0 < max(ranges_of(component.module, feeds).values()) <= LARGEST


def test_what_cannot_be_scaled_is_refused_by_name(tmp_path, capsys):
    made = grown("pixart", "transformer_blocks.0.attn1.to_out.0", 1e5)
    with pytest.raises(EdgegenError, match=r"network leaves fp16: add after transformer_blocks.0.attn2.to_q reaches"):
        export_sources("grown", [made], load_tier("high-phone"), ["coreml"], tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    made.module.save_pretrained(tmp_path / "folder")
    asked = ["ranges", "--checkpoint", str(tmp_path / "folder"), "--resolution", "64x64", "--tokens", "8"]
    capsys.readouterr()
    assert run(asked) == 1
    assert "attn2.to_q reaches" in " ".join(capsys.readouterr().out.split())


def test_ranges_of_a_pipelines_own_prompts(tmp_path, capsys):
    save_pipeline("pixart", tmp_path / "folder")
    weights = next((tmp_path / "folder" / "transformer").glob("*.safetensors"))
    state = load_file(weights)
    for name in ("weight", "bias"):
        state[f"transformer_blocks.0.ff.net.2.{name}"] *= 1e6
    save_file(state, weights, {"format": "pt"})
    asked = ["ranges", "--checkpoint", str(tmp_path / "folder"), "--resolution", "16x16", "--tokens", "24", "--json"]
    assert run([*asked, "--prompt", "a red cat", "--prompt", "tea"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == {"text_encoder", "transformer", "vae"}
    rows = {row["layer"]: row for row in told["transformer"]["layers"]}
    assert rows["transformer_blocks.0.ff.net.2"]["largest"] > FP16_MAX
    assert (
        not rows["norm_out"]["fits_fp16"] and rows["norm_out"]["largest_input"] > FP16_MAX > rows["norm_out"]["largest"]
    )
    assert told["transformer"]["scaled"]["transformer_blocks.0.ff.net.2"] >= 6 and not told["vae"]["scaled"]
    assert all(row["fits_fp16"] and row["largest"] > 0 for row in told["vae"]["layers"])
    assert run([*asked[:2], str(tmp_path / "folder" / "transformer"), "--prompt", "a red cat"]) == 2
    assert "no whole pipeline" in capsys.readouterr().err


def test_an_ordinary_network_is_let_be():
    recorded = record(source(*FAMILIES["sd3"]()))
    component = deploy(recorded.traced, Form("split"))
    before = str(component.module.graph)
    assert 0 < recorded.largest < FP16_MAX and mended_(recorded, component) == {}
    assert str(component.module.graph) == before
