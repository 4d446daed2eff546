"""The commands `edgegen app ...`: a phone app's project with bundles inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from edgegen.cli.options import Json

if TYPE_CHECKING:
    from edgegen.apps.project import AppKind, AppProject

Bundles = Annotated[
    list[Path] | None,
    typer.Option("--bundle", metavar="DIR", help="May be repeated: the app chooses. Default: the newest below ./out."),
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="The project's folder.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a project when the new one is whole.")]


def app_app() -> typer.Typer:
    """The group of commands."""
    group = typer.Typer(help="Writes a phone app's project with bundles inside.", no_args_is_help=True)
    group.command(epilog="Example: edgegen app ios --bundle out/emoji/high-phone --out my_app")(ios)
    return group


def ios(bundle: Bundles = None, out: Out = Path("my_app"), overwrite: Overwrite = False, as_json: Json = False) -> None:
    """Writes an Xcode project for iPhone, iPad and Mac that opens and builds as it is."""
    from edgegen.apps.ios import IOS

    write(IOS, bundle or [], out, overwrite, as_json)


def write(kind: AppKind, folders: list[Path], out: Path, overwrite: bool, as_json: bool) -> None:
    """Writes a project and shows what to do with it."""
    from edgegen import show
    from edgegen.apps.project import write_project
    from edgegen.bundle import load_bundle
    from edgegen.generate import newest_bundle

    bundles = [load_bundle(folder) for folder in folders or [newest_bundle(Path("out"))]]
    project = write_project(kind, bundles, out, overwrite)
    show.print_json(project.to_dict()) if as_json else show_project(show.console(), project)


def show_project(to: Console, project: AppProject) -> None:
    """Where it is, what is in it, and the next step."""
    to.print(f"Project: {project.project}", soft_wrap=True, markup=False)
    to.print(f"Carries: {', '.join(project.bundles)} ({project.bytes / 1e6:.1f} MB)", soft_wrap=True, markup=False)
    to.print(f"Next: {project.next_step}", soft_wrap=True, markup=False)
