"""The vectors that the apps are tested with: what edgegen computes today, and what it refuses."""

import ctypes
import ctypes.util
import hashlib
import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
from make_vectors import FOLDER, MAKERS, text_of

from edgegen.bundle import load_bundle
from edgegen.errors import InputError
from edgegen.manifest import read_manifest

LIMIT = 400_000  # bytes of all files together
FDLIBM_INPUT, FDLIBM_BITS = 887_598, 3_177_096_250  # log1pf(-input / 2^24), where correct rounding gives one bit less
KINDS = {"no_manifest", "unreadable_manifest", "unknown_version", "bad_field", "bad_value", "bad_sigmas", "bad_shape",
         "incomplete", "path_outside", "missing_file", "changed_file"}  # fmt: skip
APPS_ALONE = {"sigmas that end early"}
BROKEN = json.loads((FOLDER / "broken_bundles.json").read_text("ascii"))["cases"]


def read(name: str) -> dict:
    return json.loads((FOLDER / name).read_text("ascii"))


def is_fdlibm() -> bool:
    """Whether the C library's log1pf, which NumPy's noise depends on, rounds as fdlibm's does."""
    log1pf = ctypes.CDLL(ctypes.util.find_library("m")).log1pf
    log1pf.restype, log1pf.argtypes = ctypes.c_float, [ctypes.c_float]
    return struct.pack("<f", log1pf(-FDLIBM_INPUT / 2**24)) == struct.pack("<I", FDLIBM_BITS)


@pytest.mark.parametrize("name", MAKERS)
def test_a_file_is_what_edgegen_gives(name):
    if name == "noise.json" and not is_fdlibm():
        pytest.skip("NumPy's noise differs here in the last place of rare values: see tests/vectors/README.md")
    fresh = text_of(MAKERS[name]())
    assert (FOLDER / name).read_text("ascii") == fresh, "run: python tests/make_vectors.py"


def test_the_folder_holds_these_files_alone_and_is_small():
    assert {path.name for path in FOLDER.iterdir()} == {*MAKERS, "README.md"}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < LIMIT


def write_bundle(root: Path, case: dict) -> Path:
    """The bundle of bundle.json with a case's change."""
    whole = read("bundle.json")
    text = whole["manifest"]
    if "replace" in case:
        old, new = case["replace"]
        assert text.count(old) == 1, f"{old!r} is not there once"
        text = text.replace(old, new)
    for path, content in (whole["files"] | {"manifest.json": text} | case.get("write", {})).items():
        if path != case.get("delete"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(content, "utf-8")
    return root


def test_the_unbroken_bundle_is_loaded(tmp_path):
    manifest = load_bundle(write_bundle(tmp_path, {})).manifest
    assert len(manifest.components) == 9 and len(manifest.tokenizer) == 2
    assert sum(bool(artifact.options) for artifact in manifest.components) == 1


def test_tiers_are_told_apart(tmp_path):
    vectors = read("tiers.json")
    for path, content in (vectors["files"] | {"manifest.json": vectors["manifest"]}).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content, "utf-8")
    for told, tier in zip(vectors["tiers"], load_bundle(tmp_path).tiers, strict=True):
        m = tier.manifest
        assert (m.tier, m.width, m.floors_db["onnx"]) == (told["tier"], told["width"], told["floor_db"])
        assert [artifact.path for artifact in m.components] == told["paths"]


@pytest.mark.parametrize("case", BROKEN, ids=[case["name"] for case in BROKEN])
def test_a_broken_bundle_is_refused_by_edgegen_too(tmp_path, case):
    assert case["kind"] in KINDS
    root = write_bundle(tmp_path, case)
    if case["name"] in APPS_ALONE:
        load_bundle(root)  # the day this fails, the case is no longer the apps' alone
    else:
        with pytest.raises(InputError):
            load_bundle(root)


def test_every_kind_of_error_has_a_case():
    assert {case["kind"] for case in BROKEN} == KINDS


def test_what_an_app_says_of_foreign_networks_is_what_their_files_say(tmp_path):
    """Names are the files' own words; a version that the apps refuse by its number edgegen refuses by it too."""
    cases = read("foreign.json")["cases"]
    real = [case for case in cases if case["name"].startswith(("the pipeline", "a network", "a module"))]
    for case in real:
        assert case["kind"] == "foreign_networks"
        given, names = case["manifest"] + (case["index"] or ""), [words.split()[-1] for words in case["says"][1:-1]]
        assert names and all(name in given for name in names)
    versions = [case for case in cases if "version" in case["name"]]
    for case in versions:
        assert case["kind"] == "unknown_version"
        (tmp_path / "manifest.json").write_text(case["manifest"])
        with pytest.raises(InputError, match="format_version is"):
            read_manifest(tmp_path / "manifest.json")
    assert len(real) == 8 and len(versions) == 10


def test_the_noise_of_a_seed_is_that_of_numpys_default_generator():
    for case in read("noise.json")["cases"]:
        noise = np.random.default_rng(int(case["seed"])).standard_normal(case["count"], np.float32)
        assert hashlib.sha256(noise.tobytes()).hexdigest() == case["sha256"]


def test_ids_fit_their_lengths_and_a_cut_prompt_ends_in_sep():
    vectors = read("prompts.json")
    for case in vectors["cases"]:
        assert len(case["word"]) <= vectors["lengths"]["word"] and len(case["byte"]) <= vectors["lengths"]["byte"]
        assert case["word"][0] == 2 and case["word"][-1] == 3 and case["byte"][0] == 1
    assert {case["word_cut"] for case in vectors["cases"]} == {case["byte_cut"] for case in vectors["cases"]}


def test_features_are_cosines_then_sines():
    vectors = read("features.json")
    for case in vectors["cases"]:
        values = [np.uint32(int(bits, 16)).view(np.float32) for bits in case["features"]]
        half, sigma = case["size"] // 2, float(np.float32(case["sigma"]))
        for i in range(half):
            angle = vectors["scale"] * sigma * vectors["max_period"] ** (-i / half)
            assert values[i] == pytest.approx(math.cos(angle), abs=1e-6)
            assert values[half + i] == pytest.approx(math.sin(angle), abs=1e-6)
