"""`edgegen quantize`: a checkpoint with the transformer of one width in fewer bits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgegen.errors import InputError

if TYPE_CHECKING:
    from edgegen.model.checkpoint import Checkpoint
    from edgegen.show import Progress


def quantize(
    bits: Annotated[float | None, typer.Option(metavar="B", help="Average of a palette; default 4.3.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: the bundled one.")] = None,
    width: Annotated[float, typer.Option(metavar="W", help="The width to quantize.")] = 1.0,
    candidates: Annotated[str, typer.Option(metavar="A,B", help="Bits a weight may get: 1, 2, 3, 4, 6, 8.")] = "4,8",
    method: Annotated[str, typer.Option(help="palette, int8 (an output) or int4-group.")] = "palette",
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One prompt a line; default: the checkpoint's.")
    ] = None,
    plan: Annotated[Path | None, typer.Option(metavar="FILE", help="A bit plan instead of measuring.")] = None,
    measure: Annotated[
        str,
        typer.Option(
            help="Error the plan keeps small: of the velocity (a pass a layer), of each "
            "layer's output (the paper), or relative to it."
        ),
    ] = "velocity",
    tune_steps: Annotated[int, typer.Option(metavar="N", help="Of biases, norms and modulation; 0: none.")] = 2000,
    tune_batch: Annotated[int, typer.Option(metavar="N", help="Points of trajectories a step.")] = 16,
    seed: Annotated[int, typer.Option(help="Of tuning.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: out/<model>-<method>.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a checkpoint, or a run, that is there.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Measures sensitivity, gives each weight its bits, clusters, tunes, verifies and writes a quantized checkpoint."""
    from edgegen import show
    from edgegen.model.checkpoint import bundled_folder, load_checkpoint
    from edgegen.quantize.calibration import read_prompts
    from edgegen.quantize.run import BITS, Request
    from edgegen.quantize.run import quantize as work
    from edgegen.quantize.tune import Tuning

    model = load_checkpoint(checkpoint or bundled_folder())
    if bits is not None and method != "palette":
        raise InputError(f"--bits goes with --method palette, not {method}.", "Leave it out.")
    label = f"{bits or BITS:g}" if method == "palette" else method
    out = out or Path("out") / f"{model.config.name}-{width:g}-{label}"
    request = Request(
        model,
        out,
        width,
        method,
        BITS if bits is None else bits,
        parse_candidates(candidates),
        prompts=tuple(read_prompts(calibration)) if calibration else (),
        plan=plan,
        measure=measure,
        tuning=Tuning(steps=tune_steps, batch=tune_batch, seed=seed),
        resume=resume,
        overwrite=overwrite,
    )
    console, start = show.console(), time.perf_counter()
    with show.Progress(console) as progress:
        report = work(request, progress, progress.advance)
    seconds = round(time.perf_counter() - start, 1)
    if as_json:
        show.print_json({"checkpoint": str(out), "seconds": seconds, **report})
        return
    rows = [(part["name"], show.size(part["bytes_float16"]), show.size(part["bytes"])) for part in report["components"]]
    console.print(
        show.table(
            ("component", ">float16", ">stored"),
            rows,
            f"{report['model']}, width {width:g}, {report['bits']:.3f} bits a weight",
        )
    )
    velocity = report["velocity"]
    console.print(
        f"Velocity against the unquantized model: {velocity['psnr_before_db']:.1f} dB, after tuning "
        f"{velocity['psnr_after_db']:.1f} dB. {seconds:.0f} s."
    )
    console.print(
        f"Checkpoint: {out}\nReport: {out / 'report.html'}\nNext: [bold]edgegen export --checkpoint {out} "
        f"--tier {tier_of(width)}[/]",
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


def quantized_for(
    checkpoint: Checkpoint, width: float, bits: float, out: Path, tune_steps: int, overwrite: bool, progress: Progress
) -> Checkpoint:
    """The palettized checkpoint that `edgegen export --bits` exports: in `out`, made unless it is already there."""
    from edgegen.model.checkpoint import load_checkpoint
    from edgegen.quantize.run import Request
    from edgegen.quantize.run import quantize as work
    from edgegen.quantize.tune import Tuning

    work(
        Request(checkpoint, out, width, bits=bits, tuning=Tuning(steps=tune_steps), resume=True, overwrite=overwrite),
        progress,
        progress.advance,
    )
    return load_checkpoint(out)
