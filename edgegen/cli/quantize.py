"""`edgegen quantize`: a checkpoint with the transformer of one width in fewer bits."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from edgegen.cli.options import CheckpointFolder, Json, Preset, open_checkpoint, parse_resolution
from edgegen.errors import InputError
from edgegen.show import size, table

if TYPE_CHECKING:
    from edgegen.api import Quantized


TUNE_STEPS, TUNE_BATCH = 2000, 16
Measure = Annotated[
    str,
    typer.Option(
        help="Error the plan keeps small: of the velocity (a pass a layer), the same by gradient (one for all layers), "
        "of each layer's output (the paper), or relative to it. Default: velocity; of large networks gradient."
    ),
]
TuneSteps = Annotated[
    int | None,
    typer.Option(
        metavar="N", help=f"Of biases, norms and modulation; default {TUNE_STEPS}, 0 with a diffusers folder."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint, or a run, that is there.")]
Resolution = Annotated[
    str,
    typer.Option(
        metavar="WxH", help="Of the inputs to measure and tune on; default: the model's own, 256x256 where large."
    ),
]


def quantize(
    bits: Annotated[float | None, typer.Option(metavar="B", help="Average of a palette; default 4.3.")] = None,
    checkpoint: CheckpointFolder = None,
    preset: Preset = "",
    width: Annotated[float | None, typer.Option(metavar="W", help="The width to quantize; default 1.")] = None,
    tier: Annotated[str, typer.Option(metavar="NAME", help="... or the tier (edgegen tiers) whose width it is.")] = "",
    candidates: Annotated[str, typer.Option(metavar="A,B", help="Bits a weight may get: 1, 2, 3, 4, 6, 8.")] = "4,8",
    method: Annotated[str, typer.Option(help="palette, int8 (an output) or int4-group.")] = "palette",
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One prompt a line; default: the checkpoint's.")
    ] = None,
    plan: Annotated[Path | None, typer.Option(metavar="FILE", help="A bit plan instead of measuring.")] = None,
    measure: Measure = "",
    tune_steps: TuneSteps = None,
    tune_batch: Annotated[int, typer.Option(metavar="N", help="Points of trajectories a step.")] = TUNE_BATCH,
    seed: Annotated[int, typer.Option(help="Of tuning.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: out/<model>-<method>.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False,
    overwrite: Overwrite = False,
    resolution: Resolution = "",
    tokens: Annotated[int, typer.Option(metavar="N", help="With a diffusers folder: its max_sequence_length.")] = 0,
    as_json: Json = False,
) -> None:
    """Measures sensitivity, gives each weight its bits, clusters, tunes, verifies and writes a quantized checkpoint."""
    from edgegen import api, show
    from edgegen.prompts import read_prompts

    console = show.console()
    if checkpoint and api.is_foreign(checkpoint):
        other = tune_batch != TUNE_BATCH or seed != 0 or width is not None or method != "palette"
        refuse_ours(other, tier, preset, calibration, plan, measure, resume)
        with show.Progress(console) as progress:
            made = api.quantize_folder(
                checkpoint, out, bits, parse_candidates(candidates), parse_resolution(resolution), tokens, overwrite,
                tune_steps or 0, progress,
            )  # fmt: skip
        return show.print_json(made.to_dict()) if as_json else show_foreign(show.results(), made)
    if tokens:
        raise InputError("--tokens goes with a folder of diffusers.", "Leave it out.")
    prompts = read_prompts(calibration) if calibration else ()
    opened, chosen = open_checkpoint(checkpoint, preset), width_of(width, tier)
    with show.Progress(console) as progress:
        made = api.quantize_checkpoint(
            opened, out, chosen, bits, method, parse_candidates(candidates), prompts, plan, measure,
            TUNE_STEPS if tune_steps is None else tune_steps, tune_batch, seed, resume, overwrite, progress,
            parse_resolution(resolution),
        )  # fmt: skip
    show.print_json(made.to_dict()) if as_json else show_quantized(show.results(), made, chosen)


def refuse_ours(*given: object) -> None:
    """Refuses what only our own checkpoints take."""
    if any(given):
        raise InputError(
            "--method, --width, --tier, --preset, --calibration, --plan, --measure, --tune-batch, --seed and --resume "
            "go with our own checkpoints.",
            "Leave them out.",
        )


def width_of(width: float | None, tier: str) -> float:
    """The width asked for, by itself or by a tier's name."""
    from edgegen.api import load_tier

    if width is not None and tier:
        raise InputError("--width and --tier exclude each other.", "Give one of them.")
    if tier:
        return load_tier(tier).width
    return 1.0 if width is None else width


def show_foreign(to: Console, made: Quantized) -> None:
    """Sizes before and after of a diffusers folder's transformer, what it costs, and what to type next."""
    report, folder = made.report, shlex.quote(str(made.checkpoint))
    rows = [(report["network"], size(report["bytes_float16"]), size(report["bytes"]))]
    to.print(table(("component", ">float16", ">stored"), rows, f"{report['bits']:.3f} bits a weight"))
    tuned = report["tuned"]
    gained = (
        f"tuning took its error from {tuned['error_before']:.2g} to {tuned['error_after']:.2g} of its output"
        if tuned
        else "not tuned (--tune-steps)"
    )
    to.print(f"Against the unquantized network: {report['psnr_db']:.1f} dB, {gained}. {made.seconds:.0f} s.")
    to.print(f"Next: [bold]edgegen export --checkpoint {escape(folder)} --tier high-phone[/]", soft_wrap=True)


def show_quantized(to: Console, made: Quantized, width: float) -> None:
    """Sizes before and after, what it costs, and what to type next."""
    report, folder = made.report, shlex.quote(str(made.checkpoint))
    rows = [(part["name"], size(part["bytes_float16"]), size(part["bytes"])) for part in report["components"]]
    to.print(
        table(
            ("component", ">float16", ">stored"),
            rows,
            f"{report['model']}, width {width:g}, {report['bits']:.3f} bits a weight",
        )
    )
    velocity = report["velocity"]
    tuned = f"after tuning {velocity['psnr_after_db']:.1f} dB" if report["tuning"]["steps"] else "not tuned"
    to.print(
        f"Velocity against the unquantized model: {velocity['psnr_before_db']:.1f} dB, {tuned}; measured at "
        f"{'x'.join(map(str, report['settings']['resolution']))}. {made.seconds:.0f} s."
    )
    if report["random_weights"]:
        to.print("[yellow]Weights are random: sizes, time and memory are real, the dB are not.[/]")
    to.print(
        f"Checkpoint: {escape(str(made.checkpoint))}\nReport: {escape(str(made.checkpoint / 'report.html'))}\n"
        f"Next: [bold]edgegen export --checkpoint {escape(folder)} --tier {tier_of(width)}[/]",
        soft_wrap=True,
    )


def parse_candidates(text: str) -> tuple[int, ...]:
    """'4,8' -> (4, 8)."""
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise InputError(f"--candidates {text!r} is not a list of whole numbers.", "Write --candidates 4,8.") from None
    from edgegen.quantize.palette import check_bits

    for bits in found:
        check_bits(bits, "--candidates")
    return found


def tier_of(width: float) -> str:
    """A shipped tier of a width, or a placeholder."""
    from edgegen.target import list_tiers

    return next((tier.name for tier in list_tiers() if tier.width == width), "NAME")
