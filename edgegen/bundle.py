"""The bundle: a folder with artifacts, tokenizer and manifest that apps, verification and benchmarks rely on.

  manifest.json  verify.json  tokenizer/  coreml/*.mlpackage  onnx/*.onnx  executorch/*.pte  [sample.png]

The manifest is written last; `load_bundle` believes nothing that it says before it is checked.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, get_args, get_origin, get_type_hints

import edgegen
from edgegen.backends.registry import backend_names, find_backend, list_backends
from edgegen.errors import InputError
from edgegen.files import digest, write_json
from edgegen.model.blocks import TIME_PERIOD, TIME_SCALE
from edgegen.rewrite.component import TensorSpec

FORMAT_VERSION, FOREIGN_VERSION = 1, 2  # of our own networks; of any, which `pipeline` describes
MANIFEST, VERIFY, SAMPLE = "manifest.json", "verify.json", "sample.png"
COMPONENTS = ("text_encoder", "transformer", "decoder")


@dataclass(frozen=True)
class Artifact:
    """One component on one back end; inputs are listed in call order."""

    name: str
    backend: str
    path: str  # inside the bundle, with forward slashes
    sha256: str  # of a folder, over the lines `<sha256>  <relative path>` sorted by path
    bytes: int
    resident_bytes: int  # of the weights as the runtime holds them, see backends/backend.py
    form: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    options: dict = field(default_factory=dict)  # of the runtime's session, which verification ran it with


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer and how many ids it gives: `word.json` (WordPiece) or `byte.json` ({length, offset, begin})."""

    name: str
    path: str
    sha256: str
    bytes: int
    length: int


@dataclass(frozen=True)
class Manifest:
    """What an app needs to draw a picture, and where each part came from.

    `sigmas` are the steps + 1 noise levels of the default number of steps; other numbers of steps follow from `shift`.
    `timestep_features` {size, scale, max_period, order} defines the input of that name for sigma t: cosines, then
    sines, of `scale * t * max_period^(-i / (size / 2))`. `checkpoint` names what the bundle was made of.
    """

    model: str
    tier: str
    width: float
    resolution: tuple[int, int]  # pixels: width, height
    steps: int
    sigmas: tuple[float, ...]
    shift: float
    guidance: float
    bits: float  # per stored weight
    latent_shape: tuple[int, ...]  # (1, C, h, w)
    timestep_features: dict
    tokenizer: tuple[TokenizerFile, ...]
    prompts: tuple[str, ...]  # some to try, and what verification uses
    floors_db: dict  # by back end, "picture", and "<back end>/<component>" where one has a floor of its own
    checkpoint: dict
    tool_versions: dict
    components: tuple[Artifact, ...]
    pipeline: dict = field(default_factory=dict)  # of format 2: kind, networks {name: sinusoids, cases, ...}

    def to_dict(self) -> dict:
        values = asdict(self)
        if not self.pipeline:
            del values["pipeline"]
        return {"format_version": FOREIGN_VERSION if self.pipeline else FORMAT_VERSION} | values


def timestep_definition(size: int) -> dict:
    """The manifest's description of `timestep_features` (model/blocks.py)."""
    return {"size": size, "scale": TIME_SCALE, "max_period": TIME_PERIOD, "order": "cos,sin"}


def tool_versions() -> dict[str, str]:
    """The versions of edgegen and of what writes and runs artifacts; what is not installed is left out."""
    found = {"edgegen": edgegen.__version__}
    for tool in ("torch", *(package for backend in list_backends() for package in backend.packages), "numpy"):
        try:
            found[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def artifact_path(root: Path, backend: str, name: str) -> Path:
    """Where a component's artifact goes; makes the back end's folder."""
    folder = root / backend
    folder.mkdir(exist_ok=True)
    return folder / f"{name}{find_backend(backend).suffix}"


def describe(
    root: Path,
    backend: str,
    name: str,
    form: str,
    inputs: Iterable[TensorSpec],
    outputs: Iterable[TensorSpec],
    options: Mapping[str, str] | None = None,
) -> Artifact:
    """The manifest's entry of an artifact that was just written."""
    path = artifact_path(root, backend, name)
    sha, size = digest(path)
    resident = find_backend(backend).resident_bytes(path, bool(options))
    return Artifact(
        name,
        backend,
        path.relative_to(root).as_posix(),
        sha,
        size,
        resident,
        form,
        tuple(inputs),
        tuple(outputs),
        dict(options or {}),
    )


def write_tokenizer(root: Path, files: Mapping[str, bytes], lengths: Mapping[str, int]) -> tuple[TokenizerFile, ...]:
    """Writes tokenizer/; `lengths` gives the ids per encoder, such as {"word": 32, "byte": 64}."""
    (root / "tokenizer").mkdir()
    entries = []
    for name, data in sorted(files.items()):
        path = root / "tokenizer" / name
        path.write_bytes(data)
        sha, size = digest(path)
        entries.append(TokenizerFile(path.stem, path.relative_to(root).as_posix(), sha, size, lengths[path.stem]))
    return tuple(entries)


def write_manifest(root: Path, manifest: Manifest) -> None:
    """The last file of a bundle."""
    write_json(root / MANIFEST, manifest.to_dict())


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest was read."""

    root: Path
    manifest: Manifest

    @property
    def backends(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(artifact.backend for artifact in self.manifest.components))

    def artifact(self, name: str, backend: str) -> Artifact:
        """A component on a back end; one that the bundle lacks is an error that lists what it has."""
        for artifact in self.manifest.components:
            if (artifact.name, artifact.backend) == (name, backend):
                return artifact
        has = ", ".join(f"{a.name}/{a.backend}" for a in self.manifest.components)
        raise InputError(f"{self.root} has no {name} for {backend}.", f"It has: {has}. Export what is missing.")

    def path(self, artifact: Artifact | TokenizerFile) -> Path:
        return self.root / artifact.path

    def tokenizer_files(self) -> dict[str, bytes]:
        return {Path(file.path).name: self.path(file).read_bytes() for file in self.manifest.tokenizer}


def load_bundle(folder: str | Path, check: bool = True) -> Bundle:
    """Reads a bundle. A malformed manifest, a path that leaves the folder and a file that is missing or, with `check`,
    has changed are errors that name the file.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"bundle {root} does not exist.", "Make one with edgegen export.")
    path = root / MANIFEST
    manifest = read_manifest(path)
    listed: list[Artifact | TokenizerFile] = [*manifest.components, *manifest.tokenizer]
    for file in listed:
        check_inside(root, file.path)
        if not (root / file.path).exists():
            raise InputError(f"{root / file.path} is missing.", "Export the bundle again.")
        if check:
            check_digest(root, file)
    return Bundle(root, manifest)


def read_manifest(path: Path) -> Manifest:
    """Parses manifest.json; a missing field or a wrong type is an error that names it, unknown fields are let be."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
    except FileNotFoundError:
        raise InputError(
            f"{path.parent} has no {MANIFEST}: it is no bundle, or an unfinished one.", "Make one with edgegen export."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}.", "Export the bundle again.") from None
    version = values.get("format_version") if isinstance(values, dict) else None
    if version not in (FORMAT_VERSION, FOREIGN_VERSION) or isinstance(version, bool):
        raise InputError(
            f"{path}: format_version is {version!r}, this edgegen reads {FORMAT_VERSION} and {FOREIGN_VERSION}.",
            "Use the edgegen that wrote it, or export again.",
        )
    try:
        manifest = parse(Manifest, values, "")
        check_parts(manifest)
        return manifest
    except InputError as error:
        raise InputError(f"{path}: {error.message}", "Export the bundle again.") from None


def check_parts(manifest: Manifest) -> None:
    """Refuses objects of a manifest that lack what is read from them."""
    floors = {name: float for name in ("picture", *(artifact.backend for artifact in manifest.components))}
    for where, value, wanted in (
        ("floors_db", manifest.floors_db, floors),
        ("timestep_features", manifest.timestep_features, {"size": int}),
        ("checkpoint", manifest.checkpoint, {"kind": str, "name": str}),
    ):
        for key, kind in wanted.items():
            if key not in value:
                raise InputError(f"{where}.{key} is missing.")
            parse(kind, value[key], f"{where}.{key}")
    check_pipeline(manifest)
    for artifact in manifest.components:
        if artifact.backend not in backend_names():
            raise InputError(f"back end {artifact.backend!r} is not known to this edgegen.")


def check_pipeline(manifest: Manifest) -> None:
    """Refuses a description of foreign networks that lacks one of them, or its cases."""
    if not manifest.pipeline:
        return
    networks = manifest.pipeline.get("networks")
    if not isinstance(networks, dict):
        raise InputError("pipeline.networks is missing.")
    for name in {artifact.name for artifact in manifest.components}:
        entry = networks.get(name)
        cases = entry.get("cases") if isinstance(entry, dict) else None
        if not isinstance(cases, dict):
            raise InputError(f"pipeline.networks.{name}.cases is missing.")
        for key in ("path", "sha256"):
            parse(str, cases.get(key), f"pipeline.networks.{name}.cases.{key}")


def refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def parse(kind: Any, value: Any, where: str) -> Any:
    """A value of a manifest type from parsed JSON."""
    if hasattr(kind, "__dataclass_fields__"):
        if not isinstance(value, dict):
            raise InputError(f"{where} must be an object.")
        hints, at = get_type_hints(kind), f"{where}." if where else ""
        for field_ in fields(kind):
            if field_.name not in value and field_.default_factory is MISSING:
                raise InputError(f"{at}{field_.name} is missing.")
        return kind(
            **{f.name: parse(hints[f.name], value[f.name], f"{at}{f.name}") for f in fields(kind) if f.name in value}
        )
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise InputError(f"{where} must be a list.")
        inner = get_args(kind)
        if inner[-1] is not Ellipsis and len(value) != len(inner):
            raise InputError(f"{where} must have {len(inner)} entries.")
        return tuple(parse(inner[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or isinstance(value, bool):
        raise InputError(f"{where} must be {kind.__name__}, found {value!r}.")
    return value


def check_inside(root: Path, path: str) -> None:
    """Refuses a path of the manifest that is absolute, climbs, or leads out through a link."""
    outside = InputError(f"{root / MANIFEST}: {path} points outside the bundle.", "Do not use this bundle.")
    parts = PurePosixPath(path.replace("\\", "/"))
    if not parts.parts or parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
        raise outside
    inside = root.resolve()
    found = root / path
    for entry in (found, *(found.rglob("*") if found.is_dir() else ())):
        if not entry.resolve().is_relative_to(inside):
            raise outside


def check_digest(root: Path, file: Artifact | TokenizerFile) -> None:
    """Refuses a file whose bytes or sha256 are no longer those of the manifest."""
    sha, size = digest(root / file.path)
    if (sha, size) != (file.sha256, file.bytes):
        raise InputError(
            f"{root / file.path} has changed: sha256 {sha[:12]}, {size} bytes; the manifest says "
            f"{file.sha256[:12]}, {file.bytes}.",
            "Export the bundle again.",
        )
