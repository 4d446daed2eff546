"""A small bundle with every field of the manifest, ways to break it, and digests of folders.

The artifacts of the bundle are any bytes: nothing here opens them.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgegen.bundle import describe, timestep_definition, write_tokenizer
from edgegen.files import digest
from edgegen.manifest import Artifact, Manifest, TierPart
from edgegen.model.sampler import flow_sigmas
from edgegen.rewrite.component import TensorSpec

LATENT, IMAGE = (1, 4, 2, 3), (1, 3, 16, 24)
CONDITION = (
    TensorSpec("text", (1, 8, 1, 28)),
    TensorSpec("text_mask", (1, 28, 1, 1)),
    TensorSpec("pooled_text", (1, 8, 1, 1)),
)
SIGNATURES = {
    "text_encoder": ((TensorSpec("word_ids", (1, 8), "int32"), TensorSpec("byte_ids", (1, 20), "int32")), CONDITION),
    "transformer": ((TensorSpec("latent", LATENT), TensorSpec("timestep_features", (1, 16, 1, 1)), *CONDITION),
                    (TensorSpec("velocity", LATENT),)),
    "decoder": ((TensorSpec("latent", LATENT),), (TensorSpec("image", IMAGE),)),
}  # fmt: skip
SUFFIXES = {"onnx": ".onnx", "executorch": ".pte", "coreml": ".mlpackage"}
OPTIONS = {"session.qdq_matmulnbits_accuracy_level": "4"}
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "heart", "##s")
WORD_PIECE = {"model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {word: i for i, word in enumerate(WORDS)}}}
TOKENIZER = {
    "byte.json": b'{"length": 20, "offset": 2, "begin": 1}',
    "word.json": json.dumps(WORD_PIECE).encode(),
}

Case = dict[str, Any]


def bundle_vectors() -> dict[str, Any]:
    """The manifest's text and every other file of a whole bundle, as text by path."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = small_bundle(Path(folder))
        files = {
            path.relative_to(folder).as_posix(): path.read_text("utf-8")
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        }
    return {"manifest": json.dumps(manifest.to_dict()), "files": files}


def tier_vectors() -> dict[str, Any]:
    """The bundle with two further tiers, one of them for one back end alone, and what each tier is then made of."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        manifest = small_bundle(root)
        tiers = (further_tier(root, "high-phone", 0.5, tuple(SUFFIXES)), further_tier(root, "full", 1.0, ("onnx",)))
        manifest = replace(manifest, tiers=tiers)
        files = {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in sorted(root.rglob("*.*"))
                 if path.is_file()}  # fmt: skip
    told = [manifest.at(name) for name in (manifest.tier, "high-phone", "full")]
    return {
        "manifest": json.dumps(manifest.to_dict()),
        "files": files,
        "tiers": [
            {"tier": m.tier, "width": m.width, "floor_db": m.floors_db["onnx"], "paths": [a.path for a in m.components]}
            for m in told
        ],
    }


def further_tier(root: Path, name: str, width: float, backends: tuple[str, ...]) -> TierPart:
    """Writes the transformers of a further tier below its folder."""
    (root / name).mkdir()
    own = [artifact(root / name, backend, "transformer") for backend in backends]
    placed = tuple(replace(made, path=f"{name}/{made.path}") for made in own)
    return TierPart(name, width, {"onnx": 99.0, "executorch": 60.0, "coreml": 35.0, "picture": 35.0}, placed)


def small_bundle(root: Path) -> Manifest:
    """Writes the files of a bundle and returns its manifest."""
    artifacts = tuple(artifact(root, backend, name) for backend in SUFFIXES for name in SIGNATURES)
    tokenizer = write_tokenizer(root, TOKENIZER, {"byte": 20, "word": 8})
    return Manifest(
        model="tiny", tier="low-android", width=0.375, resolution=(24, 16), steps=4, sigmas=tuple(flow_sigmas(4, 3.0)),
        shift=3.0, guidance=2.5, bits=4.3, latent_shape=LATENT, timestep_features=timestep_definition(16),
        tokenizer=tokenizer, prompts=("a red heart", "лиса"), checkpoint={"kind": "random", "name": "tiny", "seed": 1},
        floors_db={"onnx": 100.0, "executorch": 60.0, "coreml": 35.0, "picture": 35.0, "onnx/decoder": 90.0},
        tool_versions={"edgegen": "0.1.0"}, components=artifacts)  # fmt: skip


def artifact(root: Path, backend: str, name: str) -> Artifact:
    """Writes any bytes under the name of an artifact, and describes it; one of them has options."""
    write_artifact(root, backend, name)
    described = describe(root, backend, name, "batched", *SIGNATURES[name])
    return replace(described, options=OPTIONS) if (backend, name) == ("onnx", "transformer") else described


def write_artifact(root: Path, backend: str, name: str) -> None:
    """A file, or for Core ML a folder with two."""
    path = root / backend / f"{name}{SUFFIXES[backend]}"
    if backend != "coreml":
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{name} of {backend}\n", "utf-8")
        return
    weights = path / "Data" / "com.apple.CoreML" / "weights"
    weights.mkdir(parents=True)
    (path / "Manifest.json").write_text("{}", "utf-8")
    (weights / "weight.bin").write_text(name, "utf-8")


def changed(name: str, old: str, new: str, kind: str) -> Case:
    """A case whose manifest has `new` at the one place of `old`."""
    return {"name": name, "replace": [old, new], "kind": kind}


def field_cases() -> list[Case]:
    """A manifest that cannot be parsed, of another version, or with a field missing or of a wrong type."""
    return [
        changed("cut off", ', "components": [', "", "unreadable_manifest"),
        changed("NaN in sigmas", "0.75, 0.5, 0.0]", "NaN, 0.5, 0.0]", "unreadable_manifest"),
        changed("infinity in sigmas", "0.75, 0.5, 0.0]", "Infinity, 0.5, 0.0]", "unreadable_manifest"),
        changed("a list for a manifest", '{"format_version"', '[], {"format_version"', "unreadable_manifest"),
        changed("a later version", '"format_version": 1', '"format_version": 2', "unknown_version"),
        changed("no version", '"format_version": 1, ', "", "unknown_version"),
        changed("a version of text", '"format_version": 1', '"format_version": "1"', "unknown_version"),
        changed("no steps", '"steps": 4, ', "", "bad_field"),
        changed("steps of text", '"steps": 4', '"steps": "4"', "bad_field"),
        changed("half a step", '"steps": 4', '"steps": 4.5', "bad_field"),
        changed("sigmas of text", "0.75, 0.5, 0.0]", '"NaN", 0.5, 0.0]', "bad_field"),
        changed("a resolution of three", '"resolution": [24, 16]', '"resolution": [24, 16, 3]', "bad_field"),
        changed("components of one object", '"components": [{', '"components": {"a": {', "unreadable_manifest"),
        changed("no timestep features", '"size": 16', '"sizes": 16', "bad_field"),
        changed("an unknown back end", '"name": "decoder", "backend": "onnx"', '"name": "decoder", "backend": "tpu"',
                "bad_field"),
    ]  # fmt: skip


def value_cases() -> list[Case]:
    """Values that cannot be drawn with, although each has the right type."""
    image = json.dumps({"name": "image", "shape": IMAGE, "dtype": "float32"})
    velocity = json.dumps({"name": "velocity", "shape": LATENT, "dtype": "float32"})
    onnx_transformer = f'{velocity}], "options": {json.dumps(OPTIONS)}}}, {{"name": "decoder", "backend": "onnx"'
    onnx_decoder = f'"outputs": [{image}], "options": {{}}}}, {{"name": "text_encoder", "backend": "executorch"'
    return [
        changed("too few sigmas", "0.75, 0.5, 0.0]", "0.5, 0.0]", "bad_sigmas"),
        changed("sigmas that rise", "0.75, 0.5, 0.0]", "0.5, 0.75, 0.0]", "bad_sigmas"),
        changed("sigmas that end early", "0.75, 0.5, 0.0]", "0.75, 0.5, 0.25]", "bad_sigmas"),
        changed("no steps to take", '"steps": 4', '"steps": 0', "bad_value"),
        changed("a shift of zero", '"shift": 3.0', '"shift": 0.0', "bad_value"),
        changed("a guidance below zero", '"guidance": 2.5', '"guidance": -1', "bad_value"),
        changed("a latent of three axes", '"latent_shape": [1, 4, 2, 3]', '"latent_shape": [4, 2, 3]', "bad_shape"),
        changed("a huge latent", '"latent_shape": [1, 4, 2, 3]', '"latent_shape": [1, 4, 200000, 300000]', "bad_shape"),
        changed("a negative latent", '"latent_shape": [1, 4, 2, 3]', '"latent_shape": [1, 4, -2, -3]', "bad_shape"),
        changed("a decoder for another picture", onnx_decoder, onnx_decoder.replace("16, 24", "24, 16"), "bad_shape"),
        changed("a transformer for another latent", onnx_transformer, onnx_transformer.replace("4, 2, 3", "4, 3, 2"),
                "bad_shape"),
        changed("an option that edgegen never sets", json.dumps(OPTIONS), '{"session.load_model_format": "ORT"}',
                "bad_value"),
        changed("no back end that is whole", '"components": [', '"components": [], "unread": [', "incomplete"),
        changed("an id length that the encoder has not", '"name": "word", "path": "tokenizer/word.json"',
                '"name": "text", "path": "tokenizer/word.json"', "bad_shape"),
    ]  # fmt: skip


def path_cases() -> list[Case]:
    """Paths that leave the bundle."""
    path = '"path": "onnx/decoder.onnx"'
    return [changed(name, path, f'"path": {json.dumps(to)}', "path_outside") for name, to in (
        ("a path that climbs", "../decoder.onnx"), ("a path that climbs later", "onnx/../../decoder.onnx"),
        ("a path that climbs with backslashes", "onnx\\..\\..\\decoder.onnx"), ("an absolute path", "/etc/hostname"),
        ("a drive's path", "C:/decoder.onnx"), ("an empty path", ""))]  # fmt: skip


def file_cases() -> list[Case]:
    """Files that are missing or differ: `delete` and `write` change the bundle's files by path."""
    return [
        {"name": "no manifest", "delete": "manifest.json", "kind": "no_manifest"},
        {"name": "a missing file", "delete": "onnx/decoder.onnx", "kind": "missing_file"},
        {"name": "a missing tokenizer", "delete": "tokenizer/word.json", "kind": "missing_file"},
        {"name": "a longer file", "write": {"onnx/decoder.onnx": "decoder of onnx\n\n"}, "kind": "changed_file"},
        {"name": "other bytes of the same length", "write": {"onnx/decoder.onnx": "Decoder of onnx\n"},
         "kind": "changed_file"},
        {"name": "a file more in a package", "write": {"coreml/decoder.mlpackage/more": "x"}, "kind": "changed_file"},
        {"name": "a wrong sha256", "replace": [first_hash(), f'"sha256": "{"0" * 64}"'], "kind": "changed_file"},
    ]  # fmt: skip


def first_hash() -> str:
    """The manifest's sha256 of the ONNX decoder."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = small_bundle(Path(folder))
    return next(f'"sha256": "{a.sha256}"' for a in manifest.components if a.path == "onnx/decoder.onnx")


def broken_bundles() -> dict[str, Any]:
    """What to change in the bundle of bundle.json, and the kind of error that loading it must then give."""
    return {"cases": [*field_cases(), *value_cases(), *path_cases(), *file_cases()]}


def digest_vectors() -> dict[str, Any]:
    """Folders, as text by path, with their sha256 and bytes; names are sorted by code point, not by UTF-16 unit."""
    folders = {
        "empty": {},
        "one file": {"a": "1"},
        "deep": {"b/c/d": "x" * 3, "b/a": "", "a": "y"},
        "a dot sorts before a slash": {"a/b": "1", "a.b": "2", "a-b": "3", "ab": "4"},
        "capitals first": {"b": "1", "B": "2", "a": "3", "_": "4"},
        "beyond ASCII": {"ä": "1", "z": "2", "\uff21": "3", "\U0001f600": "4"},
    }
    return {"cases": [digest_case(name, files) for name, files in folders.items()]}


def digest_case(name: str, files: dict[str, str]) -> Case:
    with tempfile.TemporaryDirectory() as folder:
        for path, text in files.items():
            (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / path).write_text(text, "utf-8")
        sha, size = digest(Path(folder))
    return {"name": name, "files": files, "sha256": sha, "bytes": size}
