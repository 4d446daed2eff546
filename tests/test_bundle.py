"""Bundles: whole or absent, and nothing in one is believed before it is checked."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import check_bundle
import pytest

from edgegen import files
from edgegen.bundle import Manifest, describe, load_bundle, timestep_definition, write_manifest, write_tokenizer
from edgegen.errors import InputError
from edgegen.files import digest
from edgegen.folders import new_folder
from edgegen.rewrite.component import TensorSpec

LATENT, IMAGE = (TensorSpec("latent", (1, 4, 8, 8)),), (TensorSpec("image", (1, 3, 64, 64)),)


def fill(root: Path) -> None:
    """A bundle whose artifacts are any bytes: a file and a folder."""
    (root / "onnx").mkdir()
    (root / "onnx" / "decoder.onnx").write_bytes(b"onnx")
    package = root / "coreml" / "decoder.mlpackage"
    (package / "Data" / "weights").mkdir(parents=True)
    (package / "Manifest.json").write_text("{}")
    (package / "Data" / "weights" / "weight.bin").write_bytes(b"12345")
    artifacts = tuple(describe(root, b, "decoder", "batched", LATENT, IMAGE) for b in ("onnx", "coreml"))
    tokenizer = write_tokenizer(root, {"byte.json": b"{}"}, {"byte": 24})
    write_manifest(root, Manifest(
        "tiny", "tiny-tier", 0.5, (64, 64), 2, (1.0, 0.5, 0.0), 1.0, 1.0, 16, (1, 4, 8, 8), timestep_definition(16),
        tokenizer, ("a cat",), {"onnx": 100.0, "coreml": 45.0, "picture": 35.0}, {"kind": "random", "name": "tiny"}, {},
        artifacts,
    ))  # fmt: skip


@pytest.fixture
def bundle(tmp_path):
    root = tmp_path / "out" / "tiny-tier"
    with new_folder(root, "manifest.json") as partial:
        fill(partial)
    return root


def edit_manifest(root, change):
    path = root / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_a_bundle_comes_back_as_it_was_written(bundle):
    loaded = load_bundle(bundle)
    assert loaded.backends == ("onnx", "coreml")
    assert loaded.artifact("decoder", "coreml").resident_bytes == 5
    assert loaded.artifact("decoder", "onnx").inputs == LATENT
    assert loaded.tokenizer_files() == {"byte.json": b"{}"}


def test_digests_are_those_of_the_contract(bundle):
    """check_bundle's definition, written out once more."""
    package = bundle / "coreml" / "decoder.mlpackage"
    names = sorted(p.relative_to(package).as_posix() for p in package.rglob("*") if p.is_file())
    lines = "".join(f"{hashlib.sha256((package / n).read_bytes()).hexdigest()}  {n}\n" for n in names)
    assert digest(package) == (hashlib.sha256(lines.encode()).hexdigest(), 7)
    for artifact in load_bundle(bundle).manifest.components:
        assert digest(bundle / artifact.path) == (artifact.sha256, artifact.bytes)


@pytest.mark.parametrize("path", ["onnx/decoder.onnx", "coreml/decoder.mlpackage/Manifest.json", "tokenizer/byte.json"])
def test_a_changed_or_missing_file_is_named(bundle, path):
    kept = (bundle / path).read_bytes()
    (bundle / path).write_bytes(kept + b"x")
    with pytest.raises(InputError, match="has changed") as caught:
        load_bundle(bundle)
    assert path.split("/Manifest")[0] in str(caught.value)
    (bundle / path).write_bytes(kept)
    load_bundle(bundle)
    (bundle / path).unlink()
    with pytest.raises(InputError):
        load_bundle(bundle)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "onnx/../../secret", "..\\secret", "C:\\x", ".", ""])
def test_a_path_that_leaves_the_bundle_is_refused(bundle, path):
    (bundle.parent / "secret").write_bytes(b"onnx")
    edit_manifest(bundle, lambda m: m["components"][0].update(path=path))
    with pytest.raises(InputError, match="points outside"):
        load_bundle(bundle)


def test_a_link_that_leaves_the_bundle_is_refused(bundle, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"onnx")
    artifact = bundle / "onnx" / "decoder.onnx"
    artifact.unlink()
    artifact.symlink_to(secret)
    with pytest.raises(InputError, match="points outside"):
        load_bundle(bundle)
    artifact.unlink()
    artifact.write_bytes(b"onnx")
    weights = bundle / "coreml" / "decoder.mlpackage" / "Data" / "weights" / "weight.bin"
    weights.unlink()
    weights.symlink_to(secret)
    with pytest.raises(InputError, match="points outside"):
        load_bundle(bundle)


@pytest.mark.parametrize("change, expected", [
    (lambda m: m.pop("sigmas"), "sigmas is missing"),
    (lambda m: m.update(steps="2"), "steps must be int"),
    (lambda m: m.update(resolution=[64]), "resolution must have 2"),
    (lambda m: m["components"][0].pop("sha256"), "components[0].sha256 is missing"),
    (lambda m: m["components"][0]["inputs"][0].update(shape=3), "components[0].inputs[0].shape must be a list"),
    (lambda m: m.update(components={}), "components must be a list"),
    (lambda m: m.update(format_version=7), "format_version is 7"),
    (lambda m: m.update(width=True), "width must be float"),
    (lambda m: m.update(width=float("nan")), "NaN"),
    (lambda m: m["floors_db"].pop("onnx"), "floors_db.onnx is missing"),
    (lambda m: m["components"][0].update(backend="npu"), "back end 'npu' is not known"),
    (lambda m: m["timestep_features"].update(size="x"), "timestep_features.size must be int"),
])  # fmt: skip
def test_a_wrong_manifest_is_named_with_its_field(bundle, change, expected):
    edit_manifest(bundle, change)
    with pytest.raises(InputError) as caught:
        load_bundle(bundle)
    assert expected in str(caught.value) and "manifest.json" in str(caught.value)


def test_what_is_no_bundle_is_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_bundle(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no bundle, or an unfinished one"):
        load_bundle(tmp_path)


def test_an_occupied_folder_is_kept(bundle):
    before = digest(bundle)
    with pytest.raises(InputError, match="--overwrite"), new_folder(bundle, "manifest.json"):
        pass
    assert digest(bundle) == before


def test_overwrite_replaces_bundles_only(bundle, tmp_path):
    with new_folder(bundle, "manifest.json", overwrite=True) as partial:
        assert load_bundle(bundle)  # still there until the new one is whole
        fill(partial)
        (partial / "new").touch()
    assert (bundle / "new").exists() and load_bundle(bundle)
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").touch()
    with pytest.raises(InputError, match="no manifest.json"), new_folder(home, "manifest.json", overwrite=True):
        pass
    with pytest.raises(InputError, match="is a file"), new_folder(home / "thesis.txt", "manifest.json"):
        pass
    assert sorted(os.listdir(bundle.parent)) == ["tiny-tier"]


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), OSError(errno.EIO, "x")])
def test_a_failure_leaves_nothing_new(bundle, tmp_path, error):
    before = digest(bundle)
    for target in (bundle, tmp_path / "a" / "b"):
        seen = InputError if isinstance(error, OSError) else type(error)
        with pytest.raises(seen), new_folder(target, "manifest.json", overwrite=True) as partial:
            fill(partial)
            raise error
    assert digest(bundle) == before and sorted(os.listdir(tmp_path)) == ["out"]
    assert sorted(os.listdir(bundle.parent)) == ["tiny-tier"]


def test_of_two_runs_the_slower_does_not_replace_the_faster(tmp_path):
    target = tmp_path / "b"
    with pytest.raises(InputError, match="not empty"), new_folder(target, "manifest.json") as partial:
        fill(partial)
        target.mkdir()
        (target / "faster").touch()
    assert os.listdir(tmp_path) == ["b"] and os.listdir(target) == ["faster"]


def test_a_full_disk_is_one_line(tmp_path):
    with pytest.raises(InputError, match="disk of .* is full"), new_folder(tmp_path / "b", "manifest.json") as partial:
        fill(partial)
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("some library gave up") from error
    assert not list(tmp_path.iterdir())


def test_a_library_that_hides_the_full_disk_is_seen_through(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="is full"), new_folder(tmp_path / "b", "manifest.json"):
        monkeypatch.setattr(files, "free_bytes", lambda path: 0)
        raise RuntimeError("std::bad_write")


KILLED = """
import json
from pathlib import Path
from edgegen.folders import new_folder

def fill(folder):
    names = [f"file{number}" for number in range(40)]
    for name in names:
        (folder / name).write_bytes(b"x" * 1000)
    (folder / "manifest.json").write_text(json.dumps({"names": names}))

if __name__ == "__main__":
    print("ready", flush=True)
    while True:
        with new_folder(Path("out/b"), "manifest.json", overwrite=True) as partial:
            fill(partial)
"""


def test_killed_at_any_moment_nothing_looks_finished_that_is_not(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    for attempt in range(20):
        process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, cwd=tmp_path)
        process.stdout.readline()
        time.sleep(0.0037 * attempt)
        process.kill()
        process.wait()
        process.stdout.close()
        for manifest in (tmp_path / "out").glob("[!.]*/manifest.json"):  # unfinished folders have a dot
            assert all((manifest.parent / name).is_file() for name in json.loads(manifest.read_text())["names"])
    with new_folder(tmp_path / "out" / "b", "manifest.json", overwrite=True) as partial:
        fill(partial)
    assert os.listdir(tmp_path / "out") == ["b"]
    load_bundle(tmp_path / "out" / "b")


def test_a_bundle_moved_aside_by_a_killed_run_is_put_back(bundle):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    bundle.rename(bundle.with_name(f".tiny-tier.replaced-{ended.pid}"))
    with pytest.raises(ZeroDivisionError), new_folder(bundle, "manifest.json", overwrite=True):
        raise ZeroDivisionError
    assert load_bundle(bundle)


def test_the_temporary_folder_of_a_running_export_is_left_alone(tmp_path):
    running = tmp_path / f".b.partial-{os.getppid()}"
    running.mkdir()
    with new_folder(tmp_path / "b", "manifest.json") as partial:
        fill(partial)
    assert running.exists()


def test_the_contract_s_checker_has_the_same_digest(bundle):
    package = bundle / "coreml" / "decoder.mlpackage"
    assert check_bundle.digest(package) == digest(package)


def test_the_contract_s_checker_finds_what_is_wrong(bundle):
    (bundle / "verify.json").write_text("[]")
    found = check_bundle.check(bundle, ["onnx", "tflite"])
    assert any("no row in verify.json" in line for line in found)
    assert any("no component for tflite" in line for line in found)
