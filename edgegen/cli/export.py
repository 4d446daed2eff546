"""The command `edgegen export`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from edgegen.cli.export_foreign import (
    Constant,
    ForeignOptions,
    Inputs,
    Lora,
    LoraScale,
    Module,
    Tokens,
    export_foreign,
)
from edgegen.cli.options import (
    BackendList,
    CheckpointFolder,
    Json,
    Preset,
    open_checkpoint,
    parse_resolution,
    split,
)
from edgegen.cli.verify import decibels
from edgegen.errors import InputError, VerificationError
from edgegen.show import size, table

if TYPE_CHECKING:
    from edgegen.export import Result
    from edgegen.plan import Plan


def export(
    tier: Annotated[
        str, typer.Option(metavar="NAME", help="A tier (edgegen tiers), a .toml file, or several: one bundle.")
    ] = "low-android",
    backend: BackendList = "",
    checkpoint: CheckpointFolder = None,
    preset: Preset = "",
    resolution: Annotated[str, typer.Option(metavar="WxH", help="Pixels; the checkpoint's own if left out.")] = "",
    components: Annotated[str, typer.Option(metavar="A,B", help="text_encoder, transformer, decoder.")] = "",
    module: Module = "",
    inputs: Inputs = "",
    constant: Constant = "",
    tokens: Tokens = 0,
    lora: Lora = None,
    lora_scale: LoraScale = 1.0,
    bits: Annotated[
        float | None,
        typer.Option(
            metavar="B",
            help="Palettize the transformer first, to B bits a weight "
            "on average (edgegen quantize), and keep that checkpoint.",
        ),
    ] = None,
    tune_steps: Annotated[int, typer.Option(metavar="N", help="With --bits: steps of tuning.")] = 2000,
    chunks: Annotated[
        int | None, typer.Option(metavar="N", help="Core ML: the transformer in N programs, of about the same size.")
    ] = None,
    chunk_mib: Annotated[
        int | None, typer.Option(metavar="M", help="... in as few as have M MiB of weights or less each.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: out/<model>/<tier>.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle when the new one is whole.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what an interrupted export finished.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written and how large.")] = False,
    as_json: Json = False,
) -> None:
    """Slices, rewrites and writes a model for phones, checks every file against PyTorch and draws a sample."""
    from edgegen import api, show

    console, tiers = show.console(), [api.load_tier(name) for name in split(tier) or [tier]]
    foreign = ForeignOptions(module, inputs, constant, tokens, lora, lora_scale)
    if module or (checkpoint and api.is_foreign(checkpoint)):
        refuse_with_foreign(len(tiers) > 1, dry_run, preset)
        shared = {
            "tier": tiers[0], "backends": split(backend), "out": out, "overwrite": overwrite, "bits": bits,
            "resume": resume, "chunks": chunks, "chunk_mib": chunk_mib,
        }  # fmt: skip
        return export_foreign(console, foreign, checkpoint, components, resolution, shared, as_json)
    foreign.refuse_with_ours()
    opened = open_checkpoint(checkpoint, preset)
    pixels = parse_resolution(resolution)
    what = (opened, tiers, split(backend), split(components), pixels, out, overwrite)
    if dry_run:
        return show_dry_run(api.plan_export(*what, chunks=chunks, chunk_mib=chunk_mib), bits, as_json)
    with kept_shown(as_json), show.Progress(console) as progress:
        result = api.export_bundle(*what, bits, tune_steps, resume, progress, chunks, chunk_mib)
    show.print_json(result.to_dict()) if as_json else show_result(show.results(), result)


def refuse_with_foreign(several: bool, *given: object) -> None:
    """Refuses what only our own checkpoints have."""
    if several:
        raise InputError("several tiers go with our own checkpoints.", "Name one.")
    if any(given):
        raise InputError("--dry-run and --preset go with our own checkpoints.", "Leave them out.")


@contextmanager
def kept_shown(as_json: bool) -> Iterator[None]:
    """Shows what was written nevertheless of an export that failed a check."""
    from edgegen import show

    try:
        yield
    except VerificationError as error:
        if error.kept and not as_json:
            show_result(show.results(), error.kept)
        raise


def show_dry_run(plan: Plan, bits: float | None, as_json: bool) -> None:
    """What would be written; of weights that are to be quantized first it cannot be told."""
    from edgegen import show

    if bits is not None:
        raise InputError(
            "--dry-run does not tell what --bits would give.",
            "Run edgegen quantize, then --dry-run with its --checkpoint.",
        )
    show.print_json(plan.to_dict()) if as_json else show_plan(show.results(), plan)


def show_result(to: Console, result: Result) -> None:
    """The table of an export, and what to type next."""
    plan = result.plan
    for each in (result, *result.others):
        show_tier(to, each)
    if plan.checkpoint.is_random:
        to.print("[yellow]Random weights: the pictures mean nothing.[/]")
    if result.stages:
        to.print(f"{result.seconds:.0f} s, {size(result.peak_bytes)} of memory at the peak.")
    else:
        to.print("It was finished already, and is whole.")
    to.print(f"Bundle: {escape(str(plan.out))}", soft_wrap=True)
    for other in result.others:
        to.print(f"Tier {other.plan.tier.name}: {escape(str(plan.out / other.plan.inside))}", soft_wrap=True)
    if result.sample:
        to.print(f"Sample: {escape(str(result.sample))}", soft_wrap=True)
        words = ["edgegen", "generate", plan.checkpoint.config.prompts[0], "--bundle", str(plan.out)]
    else:
        words = ["edgegen", "inspect", str(plan.out)]
    to.print(f"Next: [bold]{escape(shlex.join(words))}[/]", soft_wrap=True)


def show_tier(to: Console, result: Result) -> None:
    """The table of one tier: its own artifacts and its pictures."""
    plan, rows = result.plan, []
    for artifact, count in zip(result.artifacts, result.operations, strict=True):
        row = result.row(artifact.name, artifact.backend)
        rows.append((artifact.name, artifact.backend, f"{artifact.bytes:,}", f"{count:,}", *decibels(row)))
    in_chunks = {(a.network, a.backend) for a in result.artifacts} - {(a.name, a.backend) for a in result.artifacts}
    rows += [
        (row.component, row.backend, "", "", *decibels(row))
        for row in result.rows
        if row.component == "picture" or (row.component, row.backend) in in_chunks
    ]
    to.print(
        table(
            ("component", "back end", ">bytes", ">operations", ">PSNR", ">floor"),
            rows,
            f"{plan.checkpoint.config.name}, tier {plan.tier.name}, width {plan.tier.width:g}, "
            f"{plan.resolution[0]}x{plan.resolution[1]}",
        )
    )


def show_plan(to: Console, plan: Plan) -> None:
    """A dry run: everything here is predicted."""
    rows = [
        (f"{each.inside}/{name}".lstrip("/"), part.backend, f"{parameters:,}", size(count))
        for each in (plan, *plan.others)
        for part in each.parts
        for name, parameters, count in part.programs
    ]
    to.print(
        table(
            ("component", "back end", ">parameters", ">size, predicted"),
            rows,
            f"{plan.checkpoint.config.name}, tier {plan.tier.name}, width {plan.tier.width:g}, "
            f"{plan.resolution[0]}x{plan.resolution[1]}",
        )
    )
    if plan.checkpoint.is_random:
        to.print("[yellow]Random weights: the pictures would mean nothing.[/]")
    to.print(
        f"Would write about {size(plan.bytes)} to {escape(str(plan.out))} and take about "
        f"{size(plan.memory_bytes)} of memory (both predicted). Nothing was written.",
        soft_wrap=True,
    )
