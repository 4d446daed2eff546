"""`edgegen evaluate`: measure what a model draws, write folders for outside scorers, train the composition scorer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from edgegen.cli.options import DATA, CheckpointFolder, DataFolder, Json
from edgegen.errors import InputError

BundleFolder = Annotated[Path | None, typer.Option("--bundle", metavar="DIR", help="A bundle instead.")]
BackendName = Annotated[str, typer.Option("--backend", help="Of a bundle; default: its fastest.")]
Width = Annotated[float | None, typer.Option("--width", help="Default: the widest.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Default: the model's own.")]
Guidance = Annotated[float | None, typer.Option("--guidance", help="Default: the model's own; 1 turns it off.")]
Batch = Annotated[int, typer.Option("--batch", help="Pictures drawn at once.")]


def evaluate_app() -> typer.Typer:
    """The group of commands, to be added to the program's; without one of its names it evaluates."""
    app = typer.Typer(
        help="Measures what a model draws against real pictures; writes folders for outside scorers.",
        epilog="Example: edgegen evaluate --width 0.375,1.0 --steps 4,28 --prompts unseen --count 200 --data data",
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=True)(measure)
    app.command(epilog="Example: edgegen evaluate geneval --metadata evaluation_metadata.jsonl --out out/geneval")(
        geneval
    )
    app.command(epilog="Example: edgegen evaluate dpg --prompts dpg_bench/prompts --out out/dpg")(dpg)
    app.command(epilog="Example: edgegen evaluate scorer --train --run runs/scorer --out scenes.safetensors")(scorer)
    return app


def measure(
    context: typer.Context,
    checkpoint: CheckpointFolder = None,
    bundle: BundleFolder = None,
    backend: BackendName = "",
    width: Annotated[str, typer.Option(metavar="A,B", help="Widths; default: all.")] = "",
    steps: Annotated[str, typer.Option(metavar="A,B", help="Steps; default: the model's own.")] = "",
    guidance: Annotated[str, typer.Option(metavar="A,B", help="Guidance; default: the model's own.")] = "",
    shift: Annotated[float | None, typer.Option(help="Timestep shift; default: the model's own.")] = None,
    prompts: Annotated[
        str,
        typer.Option(metavar="SET", help="seen, unseen, combinations (scenes), emoji, emoji-unseen, or a text file."),
    ] = "seen",
    count: Annotated[int, typer.Option(metavar="N", help="Prompts, and pictures of each variant.")] = 200,
    base: Annotated[bool, typer.Option("--base", help="Without few-step adapters.")] = False,
    data: DataFolder = DATA,
    batch: Batch = 16,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Keeps pictures and report; resumes.")] = None,
    as_json: Json = False,
) -> None:
    """Draws a set of prompts and reports distances to real pictures, caption retrieval and composition."""
    if context.invoked_subcommand is not None:
        return
    from edgegen import show
    from edgegen.cli.evaluate_tables import show_report
    from edgegen.cli.options import numbers
    from edgegen.evaluate.evaluation import Settings, evaluate

    settings = Settings(
        data,
        prompts,
        count,
        tuple(numbers("width", width, ())),
        tuple(numbers("steps", steps, (None,), int)),
        tuple(numbers("guidance", guidance, (None,))),
        shift,
        batch=batch,
        base=base,
        backend=backend or None,
    )
    console = show.console()
    with show.Progress(console) as progress:
        report = evaluate(settings, checkpoint, bundle, out, progress)
    show.print_json(report) if as_json else show_report(show.results(), report)


def geneval(
    metadata: Annotated[Path, typer.Option(metavar="FILE", help="GenEval's evaluation_metadata.jsonl.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder its scorer is given.")],
    checkpoint: CheckpointFolder = None,
    bundle: BundleFolder = None,
    backend: BackendName = "",
    width: Width = None,
    steps: Steps = None,
    guidance: Guidance = None,
    samples: Annotated[int, typer.Option(help="Pictures a prompt.")] = 4,
    batch: Batch = 16,
    as_json: Json = False,
) -> None:
    """Writes pictures in GenEval's layout; what is there is kept, so that it can be interrupted."""
    from edgegen.evaluate.layouts import read_geneval, write_geneval

    if samples < 1:
        raise InputError(f"samples {samples} is below 1.", "GenEval takes 4.")
    rows = read_geneval(metadata)
    prompts = [row["prompt"] for row in rows]
    write(
        out,
        prompts,
        samples,
        (checkpoint, bundle, backend, width, steps, guidance),
        as_json,
        lambda draw, advance: write_geneval(out, rows, draw, samples, batch, advance),
    )


def dpg(
    prompts: Annotated[Path, typer.Option(metavar="DIR", help="A folder of <id>.txt, or a .jsonl file.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder its scorer is given.")],
    checkpoint: CheckpointFolder = None,
    bundle: BundleFolder = None,
    backend: BackendName = "",
    width: Width = None,
    steps: Steps = None,
    guidance: Guidance = None,
    batch: Batch = 16,
    as_json: Json = False,
) -> None:
    """Writes 2x2 grids in DPG-Bench's layout; what is there is kept, so that it can be interrupted."""
    from edgegen.evaluate.layouts import SAMPLES, read_dpg, write_dpg

    items = read_dpg(prompts)
    write(
        out,
        [item.prompt for item in items],
        SAMPLES,
        (checkpoint, bundle, backend, width, steps, guidance),
        as_json,
        lambda draw, advance: write_dpg(out, items, draw, batch, advance),
    )


def write(out: Path, prompts: list[str], samples: int, model: tuple[Any, ...], as_json: bool, work: Any) -> None:
    """Opens a model, writes with it and says what was written."""
    from edgegen import show
    from edgegen.evaluate.drawing import FIRST_SEED
    from edgegen.evaluate.evaluation import Settings, open_subjects

    checkpoint, bundle, backend, width, steps, guidance = model
    settings = Settings(
        widths=() if width is None else (width,), steps=(steps,), guidance=(guidance,), backend=backend or None
    )
    origin, _, subjects = open_subjects(settings, prompts, checkpoint, bundle)
    subject = subjects[-1]  # the widest
    sampler = settings.samplers(subject.sampler)[0]
    console = show.console()
    with show.Progress(console) as progress:
        progress(f"drawing {samples} pictures of {len(prompts)} prompts into {out}")
        work(subject.draws(sampler, FIRST_SEED, samples), progress.advance)
    told = {
        "out": str(out),
        "prompts": len(prompts),
        "samples": samples,
        "origin": origin,
        "width": subject.width,
        "steps": sampler.steps,
        "guidance": sampler.guidance,
        "seed": FIRST_SEED,
    }
    if as_json:
        show.print_json(told)
    else:
        show.results().print(
            f"{escape(str(out))}: {len(prompts)} prompts, {samples} pictures each, width {subject.width:g}, "
            f"{sampler.steps} steps, guidance {sampler.guidance:g}.",
            soft_wrap=True,
        )


def scorer(
    train: Annotated[bool, typer.Option("--train", help="Train the detector, or resume it, before.")] = False,
    data: DataFolder = DATA,
    run: Annotated[Path, typer.Option(metavar="DIR", help="State and log of the training.")] = Path("runs/scorer"),
    out: Annotated[Path, typer.Option(metavar="FILE", help="The weights to write.")] = Path("scenes.safetensors"),
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="Weights to measure; default: bundled.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Of the training.")] = None,
    count: Annotated[int, typer.Option(metavar="N", help="Real scenes of each split to be right about.")] = 500,
    as_json: Json = False,
) -> None:
    """Says how often the scorer is right on real scenes it has not seen; trains it if asked."""
    from edgegen import show
    from edgegen.cli.evaluate_tables import show_accuracy
    from edgegen.evaluate.scorer_run import accuracy, parse_settings, train_scorer

    if settings and not train:
        raise InputError("--set is of the training.", "Add --train.")
    training = parse_settings(settings or [])
    console = show.console()
    if train:
        weights = train_scorer(data, run, out, training)  # shows its own steps
    with show.Progress(console) as progress:
        progress("measuring real scenes")
        found = accuracy(data, weights, count)
    show.print_json(found) if as_json else show_accuracy(show.results(), found)
