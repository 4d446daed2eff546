"""The command `edgegen export`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

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
    from edgegen.foreign.export import ForeignResult
    from edgegen.plan import Plan


def export(
    tier: Annotated[str, typer.Option(metavar="NAME", help="A tier (edgegen tiers), or a .toml file.")] = "low-android",
    backend: BackendList = "",
    checkpoint: CheckpointFolder = None,
    preset: Preset = "",
    resolution: Annotated[str, typer.Option(metavar="WxH", help="Pixels; the checkpoint's own if left out.")] = "",
    components: Annotated[str, typer.Option(metavar="A,B", help="text_encoder, transformer, decoder.")] = "",
    module: Annotated[
        str,
        typer.Option(metavar="FILE.py:FUNCTION", help="A network of your own: the function makes it. Runs the file."),
    ] = "",
    inputs: Annotated[
        str, typer.Option(metavar="A=1x4x8x8,B=1:int64", help="With --module: example inputs by name, random.")
    ] = "",
    constant: Annotated[
        str, typer.Option(metavar="A,B", help="With --module: inputs that become part of the program.")
    ] = "",
    tokens: Annotated[
        int, typer.Option(metavar="N", help="Text tokens of a diffusers folder; the family's own if left out.")
    ] = 0,
    lora: Annotated[
        Path | None, typer.Option(metavar="DIR", help="LoRA safetensors to merge into a folder's transformer.")
    ] = None,
    lora_scale: Annotated[float, typer.Option(metavar="S", help="With --lora: its strength.")] = 1.0,
    bits: Annotated[
        float | None,
        typer.Option(
            metavar="B",
            help="Palettize the transformer first, to B bits a weight "
            "on average (edgegen quantize), and keep that checkpoint.",
        ),
    ] = None,
    tune_steps: Annotated[int, typer.Option(metavar="N", help="With --bits: steps of tuning.")] = 2000,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: out/<model>/<tier>.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle when the new one is whole.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written and how large.")] = False,
    as_json: Json = False,
) -> None:
    """Slices, rewrites and writes a model for phones, checks every file against PyTorch and draws a sample."""
    from edgegen import api, show

    console = show.console()
    if module or (checkpoint and api.is_foreign(checkpoint)):
        if dry_run or preset:
            raise InputError("--dry-run and --preset go with our own checkpoints.", "Leave them out.")
        if module and (checkpoint or components or resolution or tokens or lora):
            raise InputError("--checkpoint, --components, --resolution, --tokens and --lora do not go with --module.")
        shared: dict[str, Any] = {
            "tier": api.load_tier(tier), "backends": split(backend), "out": out, "overwrite": overwrite, "bits": bits,
        }  # fmt: skip
        with show.Progress(console) as progress:
            if module:
                made = api.export_file(module, inputs, split(constant), progress=progress, **shared)
            else:
                made = api.export_folder(
                    checkpoint or "", components=split(components), resolution=parse_resolution(resolution),
                    tokens=tokens, lora=lora, lora_scale=lora_scale, progress=progress, **shared,
                )  # fmt: skip
        show.print_json(made.to_dict()) if as_json else show_foreign(console, made)
        return
    if inputs or constant or tokens or lora:
        raise InputError("--inputs, --constant, --tokens and --lora go with --module or a folder of diffusers.")
    opened = open_checkpoint(checkpoint, preset)
    what = (
        opened,
        api.load_tier(tier),
        split(backend),
        split(components),
        parse_resolution(resolution),
        out,
        overwrite,
    )
    if dry_run:
        if bits is not None:
            raise InputError(
                "--dry-run does not tell what --bits would give.",
                "Run edgegen quantize, then --dry-run with its --checkpoint.",
            )
        plan = api.plan_export(*what)
        show.print_json(plan.to_dict()) if as_json else show_plan(show.results(), plan)
        return
    try:
        with show.Progress(console) as progress:
            result = api.export_bundle(*what, bits, tune_steps, progress)
    except VerificationError as error:
        if error.kept and not as_json:
            show_result(show.results(), error.kept)
        raise
    show.print_json(result.to_dict()) if as_json else show_result(show.results(), result)


def show_foreign(to: Console, result: ForeignResult) -> None:
    """The table of an export of foreign networks."""
    rows = []
    for artifact, row in zip(result.artifacts, result.rows, strict=True):
        found = result.networks[artifact.name]["backends"][artifact.backend]
        unknown = ", ".join(found["unknown"]) or "none"
        rows.append(
            (artifact.name, artifact.backend, f"{artifact.bytes:,}", str(found["moves"]), unknown, *decibels(row))
        )
    heads = ("component", "back end", ">bytes", ">moves", "without a layout", ">PSNR", ">floor")
    to.print(table(heads, rows, f"{result.model}, tier {result.tier.name}"))
    to.print(f"{result.seconds:.0f} s, {size(result.peak_bytes)} of memory at the peak.")
    to.print(f"Bundle: {escape(str(result.out))}", soft_wrap=True)
    to.print(f"Next: [bold]edgegen verify {escape(str(result.out))}[/]", soft_wrap=True)


def show_result(to: Console, result: Result) -> None:
    """The table of an export, and what to type next."""
    plan = result.plan
    rows = []
    for artifact, count in zip(result.artifacts, result.operations, strict=True):
        row = result.row(artifact.name, artifact.backend)
        rows.append((artifact.name, artifact.backend, f"{artifact.bytes:,}", f"{count:,}", *decibels(row)))
    rows += [(row.component, row.backend, "", "", *decibels(row)) for row in result.rows if row.component == "picture"]
    to.print(
        table(
            ("component", "back end", ">bytes", ">operations", ">PSNR", ">floor"),
            rows,
            f"{plan.checkpoint.config.name}, tier {plan.tier.name}, width {plan.tier.width:g}, "
            f"{plan.resolution[0]}x{plan.resolution[1]}",
        )
    )
    if plan.checkpoint.is_random:
        to.print("[yellow]Random weights: the pictures mean nothing.[/]")
    to.print(f"{result.seconds:.0f} s, {size(result.peak_bytes)} of memory at the peak.")
    to.print(f"Bundle: {escape(str(plan.out))}", soft_wrap=True)
    if result.sample:
        to.print(f"Sample: {escape(str(result.sample))}", soft_wrap=True)
        words = ["edgegen", "generate", plan.checkpoint.config.prompts[0], "--bundle", str(plan.out)]
    else:
        words = ["edgegen", "inspect", str(plan.out)]
    to.print(f"Next: [bold]{escape(shlex.join(words))}[/]", soft_wrap=True)


def show_plan(to: Console, plan: Plan) -> None:
    """A dry run: everything here is predicted."""
    rows = [(part.component, part.backend, f"{part.parameters:,}", size(part.bytes)) for part in plan.parts]
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
