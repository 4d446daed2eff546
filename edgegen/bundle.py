"""The bundle: a folder with artifacts, tokenizer and manifest that apps, verification and benchmarks rely on.

  manifest.json  verify.json  tokenizer/  coreml/*.mlpackage  onnx/*.onnx  executorch/*.pte  [sample.png]

The manifest is written last; `load_bundle` believes nothing that it says before it is checked.
"""

from __future__ import annotations

import importlib.metadata
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import edgegen
from edgegen.backends.registry import find_backend, list_backends
from edgegen.errors import InputError
from edgegen.files import data_beside, digest, user_path, write_json
from edgegen.manifest import COMPONENTS as COMPONENTS
from edgegen.manifest import FORMAT_VERSION as FORMAT_VERSION
from edgegen.manifest import MANIFEST, Artifact, Manifest, TokenizerFile, read_manifest
from edgegen.manifest_pipeline import Prompting
from edgegen.model.blocks import TIME_PERIOD, TIME_SCALE
from edgegen.rewrite.component import TensorSpec

VERIFY, SAMPLE = "verify.json", "sample.png"


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
    inside: str = ""  # of several tiers a further one: its folder

    @property
    def folder(self) -> Path:
        """What `load_bundle` takes to give this tier of the bundle again."""
        return self.root / self.inside

    @property
    def tiers(self) -> tuple[Bundle, ...]:
        """The bundle once for each of its tiers, the first first."""
        first = Bundle(self.root, self.manifest.at(self.manifest.tier), self.inside)
        return first, *(self.at(part.tier) for part in self.manifest.tiers)

    @property
    def own(self) -> tuple[Artifact, ...]:
        """The artifacts of a further tier that are its own; of the first tier all."""
        prefix = f"{self.inside}/" if self.inside else ""
        return tuple(artifact for artifact in self.manifest.components if artifact.path.startswith(prefix))

    def at(self, tier: str) -> Bundle:
        """A further tier of the bundle."""
        return Bundle(self.root, self.manifest.at(tier), tier)

    @property
    def backends(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(artifact.backend for artifact in self.manifest.components))

    @property
    def networks(self) -> tuple[tuple[str, str], ...]:
        """Every component and its back end; one in chunks is there once."""
        return tuple(dict.fromkeys((artifact.network, artifact.backend) for artifact in self.manifest.components))

    def artifact(self, name: str, backend: str) -> Artifact:
        """A component in one program, or a chunk; one that the bundle lacks is an error that lists what it has."""
        return self.find(name, backend, [a for a in self.manifest.components if a.name == name])[0]

    def programs(self, network: str, backend: str) -> tuple[Artifact, ...]:
        """The programs of a component in the order they run; none is an error that lists what the bundle has."""
        return self.find(network, backend, [a for a in self.manifest.components if a.network == network])

    def find(self, name: str, backend: str, among: Iterable[Artifact]) -> tuple[Artifact, ...]:
        """Those of a back end; none is an error that lists what the bundle has."""
        found = tuple(artifact for artifact in among if artifact.backend == backend)
        if found:
            return found
        has = ", ".join(f"{a.name}/{a.backend}" for a in self.manifest.components)
        raise InputError(f"{self.root} has no {name} for {backend}.", f"It has: {has}. Export what is missing.")

    def path(self, artifact: Artifact | TokenizerFile) -> Path:
        return self.root / artifact.path

    def tokenizer_files(self) -> dict[str, bytes]:
        return {Path(file.path).name: self.path(file).read_bytes() for file in self.manifest.tokenizer}


def load_bundle(folder: str | Path, check: bool = True) -> Bundle:
    """Reads a bundle; of one with several tiers the folder of a further tier inside it chooses that. A malformed
    manifest, a path that leaves the folder and a file that is missing or, with `check`, has changed are errors that
    name the file.
    """
    root = user_path(folder)
    if not root.is_dir():
        raise InputError(f"bundle {root} does not exist.", "Make one with edgegen export.")
    if not (root / MANIFEST).exists() and (tier := further_tier(root)):
        return load_bundle(root.parent, check).at(tier)
    manifest = read_manifest(root / MANIFEST)
    for file in manifest.files:
        check_inside(root, file.path)
        if not (root / file.path).exists():
            raise InputError(f"{root / file.path} is missing.", "Export the bundle again.")
        check_plain(root, file)
        if check:
            check_digest(root, file)
    return Bundle(root, manifest)


def further_tier(folder: Path) -> str | None:
    """The tier that a folder inside a bundle of several is named after; none if it is no such folder."""
    if not (folder.parent / MANIFEST).is_file():
        return None
    name = folder.absolute().name
    return name if name in [part.tier for part in read_manifest(folder.parent / MANIFEST).tiers] else None


def check_inside(root: Path, path: str) -> None:
    """Refuses a path of the manifest that is absolute, climbs, or leads out through a link."""
    outside = InputError(f"{root / MANIFEST}: {path} points outside the bundle.", "Do not use this bundle.")
    parts = PurePosixPath(path.replace("\\", "/"))
    if not parts.parts or parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0] or "\0" in path:
        raise outside
    found = root / path
    try:
        inside = root.resolve()
        entries = (found, *(found.rglob("*") if found.is_dir() else ()))
        if all(entry.resolve().is_relative_to(inside) for entry in entries):
            return
    except (OSError, RuntimeError):  # a link to itself, or a name that is too long
        pass
    raise outside


def check_plain(root: Path, file: Artifact | TokenizerFile | Prompting) -> None:
    """Refuses an artifact that is no file, or holds what is no file or folder, or more bytes than the manifest says:
    nothing of it was read yet.
    """
    path, total = root / file.path, 0
    suffix = find_backend(file.backend).suffix if isinstance(file, Artifact) else ".json"
    if path.suffix != suffix:
        raise InputError(f"{path} is no {suffix}.", "Export the bundle again.")
    beside = data_beside(path)
    parts = path.rglob("*") if path.is_dir() else (beside,) if os.path.lexists(beside) else ()
    for entry in (path, *parts):
        mode = (os.lstat if entry == beside else os.stat)(entry).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise InputError(f"{entry} is neither a file nor a folder.", "Do not use this bundle.")
        total += entry.stat().st_size if stat.S_ISREG(mode) else 0
    if total != file.bytes:
        raise changed(path, f"{total} bytes", f"{file.bytes}")


def check_digest(root: Path, file: Artifact | TokenizerFile | Prompting) -> None:
    """Refuses a file whose bytes or sha256 are no longer those of the manifest."""
    sha, size = digest(root / file.path)
    if (sha, size) != (file.sha256, file.bytes):
        raise changed(root / file.path, f"sha256 {sha[:12]}, {size} bytes", f"{file.sha256[:12]}, {file.bytes}")


def changed(path: Path, found: str, told: str) -> InputError:
    return InputError(f"{path} has changed: {found}; the manifest says {told}.", "Export the bundle again.")
