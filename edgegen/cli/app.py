"""The commands `edgegen app ...`: a phone app's project with bundles inside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from edgegen.cli.options import Json

if TYPE_CHECKING:
    from edgegen.apps.project import AppKind, AppProject
    from edgegen.bundle import Bundle

Bundles = Annotated[
    list[Path] | None,
    typer.Option("--bundle", metavar="DIR", help="May be repeated: the app chooses. Default: the newest below ./out."),
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="The project's folder.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a project when the new one is whole.")]


def app_app() -> typer.Typer:
    """The group of commands."""
    group = typer.Typer(help="Writes a phone app's project with bundles inside.", no_args_is_help=True)
    group.command(epilog="Example: edgegen app android --bundle out/emoji/low-android --out my_app")(android)
    group.command(epilog="Example: edgegen app ios --bundle out/emoji/high-phone --out my_app")(ios)
    return group


def ios(bundle: Bundles = None, out: Out = Path("my_app"), overwrite: Overwrite = False, as_json: Json = False) -> None:
    """Writes an Xcode project for iPhone, iPad and Mac that opens and builds as it is."""
    from edgegen.apps.ios import IOS

    write(IOS, opened(bundle), out, overwrite, as_json)


def android(
    bundle: Bundles = None, out: Out = Path("my_app"), overwrite: Overwrite = False, as_json: Json = False
) -> None:
    """Writes an Android Studio project that opens and builds as it is, with what is predicted for each phone."""
    from edgegen.apps.android import ANDROID, PREDICTIONS
    from edgegen.apps.project import check_bundles
    from edgegen.bench.app_predictions import app_predictions

    bundles = opened(bundle)
    check_bundles(ANDROID, bundles)
    tiers = [tier for bundle in bundles for tier in bundle.tiers]
    write(ANDROID, bundles, out, overwrite, as_json, {PREDICTIONS: app_predictions(tiers, ANDROID.backends)})


def opened(folders: list[Path] | None) -> list[Bundle]:
    """The bundles given, or the newest."""
    from edgegen.bundle import load_bundle
    from edgegen.generate import newest_bundle

    return [load_bundle(folder) for folder in folders or [newest_bundle(Path("out"))]]


def write(
    kind: AppKind,
    bundles: list[Bundle],
    out: Path,
    overwrite: bool,
    as_json: bool,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Writes a project and shows what to do with it."""
    from edgegen import show
    from edgegen.apps.project import write_project

    project = write_project(kind, bundles, out, overwrite, more)
    show.print_json(project.to_dict()) if as_json else show_project(show.console(), project)


def show_project(to: Console, project: AppProject) -> None:
    """Where it is, what is in it, and the next step."""
    to.print(f"Project: {project.project}", soft_wrap=True, markup=False)
    to.print(f"Carries: {', '.join(project.bundles)} ({project.bytes / 1e6:.1f} MB)", soft_wrap=True, markup=False)
    to.print(f"Next: {project.next_step}", soft_wrap=True, markup=False)
