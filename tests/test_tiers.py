"""Several tiers in one bundle: what they share is stored once, each is the bundle that it would be alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops
from tiny import TIER, tiny_checkpoint, tiny_tier

from edgegen.bundle import load_bundle
from edgegen.cli import run
from edgegen.errors import InputError
from edgegen.files import digest
from edgegen.generate import PictureRequest, generate
from edgegen.inspection import inspect_folder
from edgegen.verify import read_rows, verify_folder

CHECKER = Path(__file__).with_name("check_bundle.py")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a bundle of two tiers, and the two of one tier each."""
    folder = tmp_path_factory.mktemp("tiers")
    tiny_checkpoint(folder / "checkpoint")
    tiny_tier(folder)
    (folder / "wide.toml").write_text(TIER.replace("tiny-tier", "wide").replace("width = 0.5", "width = 1.0"))
    both = f"{folder / 'tiny-tier.toml'},{folder / 'wide.toml'}"
    for tier, out in ((both, "both"), (folder / "tiny-tier.toml", "narrow"), (folder / "wide.toml", "wide")):
        assert run(line(folder, tier, folder / out)) == 0
    return folder


def line(folder, tier, out, *more):
    return ["export", "--checkpoint", str(folder / "checkpoint"), "--tier", str(tier), "--backend", "onnx", "--out",
            str(out), *more]  # fmt: skip


def test_each_tier_has_the_files_that_it_would_have_alone(made):
    both = load_bundle(made / "both")
    assert [tier.manifest.tier for tier in both.tiers] == ["tiny-tier", "wide"]
    for tier, alone in zip(both.tiers, (load_bundle(made / "narrow"), load_bundle(made / "wide")), strict=True):
        assert tier.manifest.width == alone.manifest.width and tier.manifest.floors_db == alone.manifest.floors_db
        assert {a.name: a.sha256 for a in tier.manifest.components} == {
            a.name: a.sha256 for a in alone.manifest.components
        }


def test_what_tiers_share_is_there_once(made):
    files = [path.relative_to(made / "both").as_posix() for path in (made / "both").rglob("*.onnx")]
    assert sorted(files) == ["onnx/decoder.onnx", "onnx/text_encoder.onnx", "onnx/transformer.onnx",
                             "wide/onnx/transformer.onnx"]  # fmt: skip


def test_the_folder_of_a_tier_is_a_bundle_to_every_command(made, tmp_path):
    assert load_bundle(made / "both" / "wide").manifest.tier == "wide"
    for tier, alone in (("both", "narrow"), ("both/wide", "wide")):
        for name in (tier, alone):
            out = tmp_path / f"{name.replace('/', '-')}-{alone}.png"
            drawn = generate(PictureRequest("a cat", made / name, "onnx", out=out))
            assert drawn.bundle == str(made / name)
        pictures = [Image.open(tmp_path / f"{name.replace('/', '-')}-{alone}.png") for name in (tier, alone)]
        assert ImageChops.difference(*pictures).getbbox() is None
    record = tmp_path / "rows.jsonl"
    bench = ["bench", "--bundle", str(made / "both" / "wide"), "--component", "transformer", "--runs", "2"]
    assert run([*bench, "--seconds", "0.1", "--force", "--record", str(record)]) == 0
    (row,) = map(json.loads, record.read_text().splitlines())
    assert (row["tier"], row["width"]) == ("wide", 1.0) and row["artifacts"][0]["path"] == "wide/onnx/transformer.onnx"


def test_all_tiers_are_verified_and_inspected(made):
    rows = verify_folder(made / "both")
    assert rows.passed
    assert {(row.tier, row.component) for row in rows.rows} == {
        (tier, part) for tier in ("tiny-tier", "wide") for part in ("text_encoder", "transformer", "decoder", "picture")
    }
    told = {(row["tier"], row["component"]) for row in read_rows(made / "both")}
    assert ("wide", "transformer") in told and ("wide", "decoder") not in told
    found = inspect_folder(made / "both").components
    assert [c.component for c in found] == ["text_encoder", "transformer", "decoder", "wide/transformer"]
    by_name = {c.component: c.parameters for c in found}
    assert by_name["wide/transformer"] > 2 * by_name["transformer"]


def test_the_contract_is_kept(made):
    subprocess.run([sys.executable, CHECKER, made / "both"], check=True, stdout=subprocess.DEVNULL)


def test_a_changed_file_of_a_further_tier_is_named(made, tmp_path, capfd):
    copy = shutil.copytree(made / "both", tmp_path / "both")
    artifact = copy / "wide" / "onnx" / "transformer.onnx"
    artifact.write_bytes(artifact.read_bytes() + b"x")
    with pytest.raises(InputError, match="wide/onnx/transformer.onnx has changed"):
        load_bundle(copy)
    artifact.unlink()
    assert run(["verify", str(copy)]) == 2
    assert "transformer.onnx is missing" in capfd.readouterr().err


@pytest.mark.parametrize("change, expected", [
    (lambda m: m["tiers"].append(m["tiers"][0]), "tiers has wide twice"),
    (lambda m: m["tiers"][0].update(tier="../x"), "tier"),
    (lambda m: m["tiers"][0].update(width=-1), "width"),
    (lambda m: m["tiers"][0].update(components=[]), "components"),
    (lambda m: m["tiers"][0]["components"][0].update(path="../onnx/transformer.onnx"), "points outside"),
    (lambda m: m["tiers"][0]["components"][0]["inputs"][0].update(shape=[1, 2]), "must be"),
    (lambda m: m["tiers"][0]["floors_db"].pop("onnx"), "floors_db.onnx is missing"),
    (lambda m: m.update(tiers={}), "tiers"),
])  # fmt: skip
def test_a_spoilt_manifest(made, tmp_path, change, expected):
    copy = shutil.copytree(made / "both", tmp_path / "both")
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=expected):
        load_bundle(copy)


def test_an_export_of_two_tiers_goes_on_where_it_was_interrupted(made, tmp_path, monkeypatch):
    from edgegen import export as exporting

    emit = exporting.emit

    def fail(plan, *rest):
        if plan.inside:
            raise KeyboardInterrupt
        return emit(plan, *rest)

    tiers = f"{made / 'tiny-tier.toml'},{made / 'wide.toml'}"
    monkeypatch.setattr(exporting, "fits_two", lambda plan: False)
    monkeypatch.setattr(exporting, "emit", fail)
    assert run(line(made, tiers, tmp_path / "b")) == 130
    monkeypatch.setattr(exporting, "emit", lambda plan, *rest: plan.inside and emit(plan, *rest))
    assert run(line(made, tiers, tmp_path / "b", "--resume")) == 0
    assert digest(tmp_path / "b") == digest(made / "both")


@pytest.mark.parametrize("tiers, more, expected", [
    (("tiny-tier", "again"), (), "names tiny-tier twice"),
    (("tiny-tier", "wide"), ("--bits", "4.3"), "one tier"),
    (("tiny-tier", "wide"), ("--components", "decoder"), "transformer"),
    (("tiny-tier", "single"), (), "another form"),
    (("tiny-tier", "large"), (), "other resolutions"),
])  # fmt: skip
def test_tiers_that_cannot_share(made, tmp_path, capfd, tiers, more, expected):
    single = TIER.replace("tiny-tier", "single").replace('attention = "batched"', 'attention = "split"')
    (made / "single.toml").write_text(single)
    large = TIER.replace("tiny-tier", "large").replace("[backends.coreml]", "resolution = [64, 96]\n[backends.coreml]")
    (made / "large.toml").write_text(large)
    (made / "again.toml").write_text(TIER)
    names = ",".join(str(made / f"{name}.toml") for name in tiers)
    assert run(line(made, names, tmp_path / "b", *more)) == 2
    assert expected in capfd.readouterr().err
    assert not (tmp_path / "b").exists()
