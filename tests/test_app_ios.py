"""`edgegen app ios`: an Xcode project with bundles inside, whole or not at all."""

import json
import plistlib
import re
import tomllib
from pathlib import Path

import pytest
from small_bundle import write_small_bundle

from edgegen.apps.ios import IOS
from edgegen.apps.project import MARKER
from edgegen.bundle import MANIFEST, VERIFY, load_bundle
from edgegen.cli.main import run
from edgegen.files import write_json

ROOT = Path(__file__).parents[1]
APP = ROOT / "swift_app" / "App"
PROJECT = APP / "Edgegen.xcodeproj" / "project.pbxproj"
CATALOG = APP / "Edgegen" / "Localizable.xcstrings"
# Calls of SwiftUI whose first word is read by people.
SHOWN = re.compile(
    r"\b(?:Text|Label|Button|Toggle|Picker|Section|LabeledContent|TextField|ProgressView|ContentUnavailableView"
    r'|SharePreview|navigationTitle|accessibilityLabel)\("((?:[^"\\]|\\.)*)"'
)


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A small bundle of three back ends."""
    return write_small_bundle(tmp_path / "bundle")


def write(*bundles: Path, out: Path, more: tuple[str, ...] = ()) -> int:
    words = [word for folder in bundles for word in ("--bundle", str(folder))]
    return run(["app", "ios", *words, "--out", str(out), *more])


def test_a_project_carries_what_the_app_runs(bundle, tmp_path, capfd):
    out = tmp_path / "my_app"
    assert write(bundle, out=out, more=("--json",)) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["bundles"] == ["tiny/low-android"] and told["bytes"] > 0
    for part in IOS.parts:
        assert (out / part).exists()
    carried = load_bundle(out / "App" / "Bundles" / "tiny-low-android")
    assert carried.backends == ("coreml",) and len(carried.manifest.components) == 3
    assert {row["backend"] for row in json.loads((carried.root / VERIFY).read_text())} == {"coreml"}
    listed = json.loads((carried.root / MANIFEST).read_text())["files"]
    assert set(listed) == {p.relative_to(carried.root).as_posix() for p in carried.root.rglob("*") if p.is_file()}
    assert not list(out.rglob(".build")) and not (out / "Tests").exists()


def test_a_project_replaces_only_a_project(bundle, tmp_path, capfd):
    out = tmp_path / "my_app"
    assert write(bundle, out=out) == 0
    assert write(bundle, out=out) == 2
    assert write(bundle, out=out, more=("--overwrite",)) == 0
    (out / "mine.txt").write_text("kept")
    assert write(bundle, out=out, more=("--overwrite",)) == 2
    assert (out / "mine.txt").read_text() == "kept" and (out / MARKER).is_file()


def refused(capfd, code: int, *expected: str) -> None:
    """One line on stderr that says what is expected."""
    assert code == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and all(word in lines[0] for word in expected), lines


def test_a_bundle_without_core_ml_is_refused(bundle, tmp_path, capfd):
    values = json.loads((bundle / MANIFEST).read_text())
    values["components"] = [entry for entry in values["components"] if entry["backend"] != "coreml"]
    write_json(bundle / MANIFEST, values)
    refused(capfd, write(bundle, out=tmp_path / "app"), "nothing that the ios app runs", "--backend coreml")
    assert not (tmp_path / "app").exists()


def test_the_same_tier_twice_and_a_changed_bundle_are_refused(bundle, tmp_path, capfd):
    refused(capfd, write(bundle, bundle, out=tmp_path / "app"), "was given 2 times")
    (bundle / "coreml/decoder.mlpackage/Manifest.json").write_text("[]")
    refused(capfd, write(bundle, out=tmp_path / "app"), "decoder.mlpackage has changed")
    assert not (tmp_path / "app").exists()


def test_an_interrupted_project_leaves_nothing(bundle, tmp_path, monkeypatch):
    from edgegen.apps import project

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(project, "copy_bundle", stop)
    assert write(bundle, out=tmp_path / "deep" / "app") == 130
    assert {path.name for path in tmp_path.iterdir()} == {"bundle"}


def test_an_installed_edgegen_carries_the_apps_sources():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    carried = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for part in IOS.parts:
        assert carried[f"swift_app/{part}"] == f"edgegen/swift_app/{part}"


def test_the_xcode_project_is_whole():
    pbxproj = pytest.importorskip("pbxproj", reason="needs the extra [test]")
    project = pbxproj.XcodeProject.load(str(PROJECT))
    objects = {identifier: project.objects[identifier] for identifier in project.objects.get_keys()}
    assert len(objects) > 15
    for identifier in re.findall(r"\b[0-9A-F]{24}\b", PROJECT.read_text()):
        assert identifier in objects, f"{identifier} is named, but is nowhere"
    (target,) = project.objects.get_targets("Edgegen")
    assert target.productType == "com.apple.product-type.application"
    (group,) = [objects[g] for g in target.fileSystemSynchronizedGroups]
    assert (APP / group.path / "EdgegenApp.swift").is_file()
    (package,) = project.objects.get_objects_in_section("XCLocalSwiftPackageReference")
    assert (APP / package.relativePath / "Package.swift").is_file()
    (product,) = project.objects.get_objects_in_section("XCSwiftPackageProductDependency")
    assert f'.library(name: "{product.productName}"' in (ROOT / "swift_app/Package.swift").read_text()
    for file in project.objects.get_objects_in_section("PBXFileReference"):
        assert file.sourceTree == "BUILT_PRODUCTS_DIR" or (APP / file.path).exists(), file.path
    plistlib.loads((APP / "Edgegen.entitlements").read_bytes())


def test_versions_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    source = (ROOT / "swift_app/Sources/EdgegenCore/Support/AppVersion.swift").read_text()
    assert f'current = "{version}"' in source
    assert set(re.findall(r"MARKETING_VERSION = ([^;]+);", PROJECT.read_text())) == {version}


def shown_texts() -> dict[str, Path]:
    """The texts in the app's sources as the catalog spells them: what is put in is %@, or %lld where it is a number."""
    found = {}
    for path in APP.rglob("*.swift"):
        for text in SHOWN.findall(path.read_text()):
            found[text] = path
    return found


def test_every_text_of_the_app_is_in_german_too():
    strings = json.loads(CATALOG.read_text())["strings"]
    spelled = {re.sub(r"%(lld|@)", "*", key) for key in strings}
    texts = shown_texts()
    assert len(texts) > 30
    for text, path in texts.items():
        key = re.sub(r"\\\((?:[^()]|\([^()]*\))*\)", "*", text)
        assert key in spelled or re.fullmatch(r"(error|unit|reason)\.\*", key), f"{path.name}: {text!r}"
    for key, entry in strings.items():
        german = entry["localizations"]["de"]["stringUnit"]["value"]
        assert german and re.findall(r"%(?:lld|@)", german) == re.findall(r"%(?:lld|@)", key), key


def test_every_kind_of_error_unit_and_reason_has_its_text():
    core = ROOT / "swift_app/Sources/EdgegenCore"
    strings = json.loads(CATALOG.read_text())["strings"]
    for prefix, path in (
        ("error", core / "Support/EdgegenError.swift"),
        ("unit", core / "Device/ComputeUnit.swift"),
        ("reason", core / "Device/TierChoice.swift"),
    ):
        body = re.search(r"enum (?:Kind|ComputeUnit|Reason)\b.*?\n  ?}", path.read_text(), re.DOTALL).group()
        cases = [
            re.split(r" = ", case) for line in re.findall(r"case ([^.\n]*)$", body, re.M) for case in line.split(", ")
        ]
        names = {case[-1].strip('"') for case in cases}
        assert len(names) >= 4
        assert {f"{prefix}.{name}" for name in names} <= strings.keys()
