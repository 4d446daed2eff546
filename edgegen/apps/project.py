"""An app's project with bundles inside: its sources, copied, and of each bundle what that app can run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import edgegen
from edgegen.apps.foreign import refuse_foreign
from edgegen.bundle import MANIFEST, VERIFY, Bundle
from edgegen.errors import InputError
from edgegen.files import write_json
from edgegen.folders import check_apart, files_below, new_folder
from edgegen.manifest import Artifact, Manifest, TierPart
from edgegen.strict_json import read_json
from edgegen.verify import is_whole

MARKER = "edgegen-app.json"


@dataclass(frozen=True)
class AppKind:
    """An app that ships with edgegen."""

    name: str  # ios
    folder: str  # beside the package in a checkout, inside it when installed
    parts: tuple[str, ...]  # what a project is made of: files and folders of that folder
    bundles: str  # where in a project bundles go
    backends: tuple[str, ...]  # what it can run, best first
    opened_with: str


@dataclass(frozen=True)
class AppProject:
    """A project on disk."""

    app: str
    project: str
    bundles: tuple[str, ...]  # model/tier
    bytes: int  # of all bundles in it
    next_step: str

    def to_dict(self) -> dict:
        return asdict(self)


def write_project(
    kind: AppKind, bundles: Sequence[Bundle], out: Path, overwrite: bool = False, more: Mapping[str, Any] | None = None
) -> AppProject:
    """Writes a project that its tool opens and builds as it is; it appears whole or not at all.

    `more` are values by the path of a JSON file in the project. Refuses bundles that the app cannot run, and two of the
    same model and tier.
    """
    check_bundles(kind, bundles)
    source = app_folder(kind)
    check_apart(out, source, "app's sources")
    for bundle in bundles:
        check_apart(out, bundle.root, "bundle")
    with new_folder(out, MARKER, overwrite) as folder:
        copy_sources(kind, source, folder)
        for bundle in bundles:
            copy_bundle(kind, bundle, folder / kind.bundles / folder_name(bundle))
        for path, values in (more or {}).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_json(folder / path, values)
        titles = tuple(title(tier) for bundle in bundles for tier in bundle.tiers)
        write_json(folder / MARKER, {"app": kind.name, "edgegen": edgegen.__version__, "bundles": titles})
    total = sum(bytes_of(kind, bundle) for bundle in bundles)
    return AppProject(kind.name, str(out), titles, total, kind.opened_with.format(project=out))


def app_folder(kind: AppKind) -> Path:
    """The app's sources: inside an installed package, or beside the package in a checkout."""
    package = Path(edgegen.__file__).parent
    for folder in (package / kind.folder, package.parent / kind.folder):
        if (folder / kind.parts[0]).is_file():
            return folder
    raise InputError(f"no {kind.folder}/ in {package} or beside it.", "Reinstall edgegen.")


def check_bundles(kind: AppKind, bundles: Sequence[Bundle]) -> None:
    """Refuses what the app could not draw with, before anything is written."""
    if not bundles:
        raise InputError("no bundle was given.", "Make one with edgegen export.")
    for bundle in bundles:
        refuse_foreign(bundle, f"the {kind.name} app")
        if not any(is_whole(bundle, backend) for backend in kind.backends):
            raise InputError(
                f"{bundle.root} has nothing that the {kind.name} app runs whole; it has {', '.join(bundle.backends)}.",
                f"Export it with --backend {kind.backends[-1]}.",
            )
    titles = [title(tier) for bundle in bundles for tier in bundle.tiers]
    for name in titles:
        if titles.count(name) > 1:
            raise InputError(f"{name} was given {titles.count(name)} times.", "Give each tier of a model once.")


def title(bundle: Bundle) -> str:
    return f"{bundle.manifest.model}/{bundle.manifest.tier}"


def folder_name(bundle: Bundle) -> str:
    """A bundle's folder in the app; a manifest's names are plain words."""
    return f"{bundle.manifest.model}-{bundle.manifest.tier}"


def runnable(kind: AppKind, part: Manifest | TierPart) -> tuple[Artifact, ...]:
    """The artifacts of a bundle, or of a further tier of it, that the app can run."""
    return tuple(artifact for artifact in part.components if artifact.backend in kind.backends)


def bytes_of(kind: AppKind, bundle: Bundle) -> int:
    """Bytes of a bundle's artifacts in the app."""
    further = [artifact for part in bundle.manifest.tiers for artifact in runnable(kind, part)]
    return sum(artifact.bytes for artifact in (*runnable(kind, bundle.manifest), *further))


def copy_sources(kind: AppKind, source: Path, target: Path) -> None:
    """Copies the parts of a project, and nothing that a build left beside them."""
    for part in kind.parts:
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part)
        else:
            shutil.copy(source / part, target / part)  # with its mode: gradlew is run


def copy_bundle(kind: AppKind, bundle: Bundle, target: Path) -> None:
    """Copies a bundle without the artifacts of back ends that the app has not; its manifest names what is there."""
    kept = runnable(kind, bundle.manifest)
    tiers = tuple(replace(part, components=own) for part in bundle.manifest.tiers if (own := runnable(kind, part)))
    manifest = replace(bundle.manifest, components=kept, tiers=tiers)
    target.mkdir(parents=True)
    further = [artifact for part in tiers for artifact in part.components]
    for path in (file.path for file in (*kept, *further)):
        copy(bundle.root / path, target / path)
    for file in manifest.tokenizer:
        copy(bundle.root / file.path, target / file.path)
    if (bundle.root / VERIFY).is_file():
        rows = read_json(bundle.root / VERIFY)
        write_json(target / VERIFY, [row for row in rows if row.get("backend") in kind.backends])
    values = manifest.to_dict()
    write_json(target / MANIFEST, values | {"files": sorted([MANIFEST, *files_below(target)])})


def copy(source: Path, target: Path) -> None:
    """Copies a file or a folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
