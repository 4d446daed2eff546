"""The whole line on a small model: three back ends, one bundle, the same picture from each."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_checkpoint, tiny_tier

from edgegen.bundle import load_bundle
from edgegen.export import Result, export
from edgegen.generate import PictureRequest, generate
from edgegen.inspection import inspect_folder
from edgegen.model.checkpoint import load_checkpoint
from edgegen.plan import make_plan
from edgegen.target import load_tier
from edgegen.verify import psnr

BACKENDS = ("coreml", "onnx", "executorch")
CHECKER = Path(__file__).with_name("check_bundle.py")


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> Result:
    folder = tmp_path_factory.mktemp("export")
    checkpoint = load_checkpoint(tiny_checkpoint(folder / "checkpoint"))
    plan = make_plan(checkpoint, load_tier(str(tiny_tier(folder))), resolution=(64, 96), out=folder / "bundle")
    return export(plan)


def test_every_component_is_there_for_every_back_end_and_verified(result):
    bundle = load_bundle(result.plan.out)
    assert {(a.name, a.backend) for a in bundle.manifest.components} == {
        (name, backend) for name in ("text_encoder", "transformer", "decoder") for backend in BACKENDS
    }
    assert {(row.component, row.backend) for row in result.rows} >= {("picture", backend) for backend in BACKENDS}
    assert all(row.passed and row.inputs for row in result.rows)
    assert bundle.manifest.resolution == (64, 96) and bundle.manifest.latent_shape == (1, 4, 12, 8)


def test_signatures_name_what_apps_feed(result):
    bundle = load_bundle(result.plan.out)
    for backend, floats in (("coreml", "float16"), ("onnx", "float32"), ("executorch", "float32")):
        text, transformer, decoder = (
            bundle.artifact(name, backend) for name in ("text_encoder", "transformer", "decoder")
        )
        assert [(s.name, s.dtype) for s in text.inputs] == [("byte_ids", "int32")]
        assert [s.name for s in transformer.inputs] == [
            "latent",
            "timestep_features",
            "text",
            "text_mask",
            "pooled_text",
        ]
        assert [s.name for s in text.outputs] == ["text", "text_mask", "pooled_text"]
        assert {s.dtype for s in (*transformer.inputs, *transformer.outputs, *decoder.outputs)} == {floats}
        assert decoder.outputs[0].shape == (1, 3, 96, 64)


def test_one_seed_is_one_picture_on_every_back_end(result, tmp_path):
    pictures = {}
    for backend in (*BACKENDS, "torch"):
        drawn = generate(PictureRequest("a yellow star", result.plan.out, backend, 7, out=tmp_path / f"{backend}.png"))
        assert drawn.resolution == (64, 96)
        pictures[backend] = np.asarray(Image.open(drawn.picture), np.float64) / 255
    assert pictures["torch"].shape == (96, 64, 3) and pictures["torch"].std() > 0.01
    for backend in BACKENDS:
        assert psnr(pictures["torch"], pictures[backend], peak=1.0) >= 35, backend


def test_inspection_reads_every_artifact(result):
    found = {(c.component, c.backend): c for c in inspect_folder(result.plan.out).components}
    assert len(found) == 9
    parameters = {part.component: part.parameters for part in result.plan.parts}
    for (component, backend), contents in found.items():
        assert contents.parameters >= parameters[component] * 0.98, (component, backend)
        assert contents.operation_count > 0 and contents.resident_bytes <= contents.bytes
        assert (contents.delegated is not None) == (backend == "executorch")
    assert found["transformer", "coreml"].operations["einsum"] > 0
    assert found["decoder", "executorch"].not_delegated == {}
    assert dict(zip(((a.name, a.backend) for a in result.artifacts), result.operations, strict=True)) == {
        key: contents.operation_count for key, contents in found.items()
    }


def test_the_contract_s_checker_accepts_the_bundle(result):
    done = subprocess.run(
        [sys.executable, CHECKER, result.plan.out, "--backends", ",".join(BACKENDS)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok  ") == 9


def test_the_report_is_json_and_measured(result):
    report = json.loads(json.dumps(result.to_dict()))
    assert report["peak_bytes"] > 0 and report["seconds"] > 0
    assert [stage["name"] for stage in report["stages"]][0] == "reference"
    assert all(dataclasses.asdict(row) in report["verify"] for row in result.rows)
