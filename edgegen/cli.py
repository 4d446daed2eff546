"""The commands: each parses its options, calls one function and shows what it returns.

Modules are imported inside the commands, so that help and errors come at once.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from edgegen.bench.command import bench
from edgegen.bench.recommend_command import recommend
from edgegen.errors import EdgegenError, InputError
from edgegen.evaluate.command import evaluate_app
from edgegen.quantize.command import quantize
from edgegen.train.command import train_app

app = typer.Typer(
    name="edgegen",
    help="Puts a trained text-to-image transformer on a phone: slice, rewrite, export, verify, draw.",
    epilog="Start with: edgegen export --tier low-android",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command(epilog="Example: edgegen quantize --bits 4.3 --width 0.5 --out out/emoji-4.3")(quantize)
app.add_typer(train_app(), name="train")
app.add_typer(evaluate_app(), name="evaluate")
app.command(epilog="Example: edgegen bench --bundle out/emoji/low-android --compare onnx executorch")(bench)
app.command(epilog="Example: edgegen recommend --device pixel8 --budget 3s --memory 1.5GB")(recommend)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
BackendList = Annotated[str, typer.Option("--backend", metavar="A,B", help="coreml, onnx, executorch.")]
CheckpointFolder = Annotated[Path | None, typer.Option("--checkpoint", metavar="DIR", help="A checkpoint folder.")]
BundleFolder = Annotated[Path, typer.Argument(metavar="DIR", help="A bundle.", show_default=False)]


def main() -> None:
    """The entry point of the command `edgegen`; ends in good order when asked to terminate."""
    asked: list[int] = []  # kept, since a library that catches everything can turn the exit into an error of its own

    def end(number: int, frame: object) -> None:
        asked.append(128 + number)
        sys.exit(asked[0])

    signal.signal(signal.SIGTERM, end)
    code = run(sys.argv[1:])
    sys.exit(asked[0] if asked else code)


def run(arguments: list[str]) -> int:
    """Runs a command line; every expected failure is one line on stderr. Returns the exit code."""
    from edgegen.show import print_error

    as_json = "--json" in arguments
    try:
        code = app(args=arguments, prog_name="edgegen", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except EdgegenError as error:
        if os.environ.get("EDGEGEN_DEBUG"):
            raise
        print_error(error.message, error.remedy, error.exit_code, as_json)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print_error("interrupted.", "", 130, as_json)
        return 130
    except Exception as error:  # typer's own usage errors, of whichever click it carries
        if not hasattr(error, "format_message"):
            raise
        code = getattr(error, "exit_code", 2)
        if type(error).__name__ == "NoArgsIsHelpError":  # the help was printed: nothing is wrong but the missing word
            return code
        if code or str(error):
            print_error(error.format_message(), "Try --help.", code, as_json)
        return code


def split(names: str) -> list[str]:
    """'a, b' -> ['a', 'b']."""
    return [name.strip() for name in names.split(",") if name.strip()]


def parse_resolution(text: str) -> tuple[int, int] | None:
    """'1024x768' -> (1024, 768); '' -> None."""
    if not text:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and 0 < int(part) < 2**20 for part in parts):
        raise InputError(f"resolution {text!r} is not WIDTHxHEIGHT.", "Write it as 1024x1024.")
    return int(parts[0]), int(parts[1])


def open_checkpoint(folder: Path | None, preset: str) -> Any:
    """The checkpoint asked for: a folder, a preset's random weights, or the bundled one."""
    from edgegen.model.checkpoint import bundled_folder, load_checkpoint
    from edgegen.model.random_checkpoint import random_preset

    if folder and preset:
        raise InputError("--checkpoint and --preset exclude each other.", "Give one of them.")
    if preset:
        return random_preset(preset)
    return load_checkpoint(folder or bundled_folder())


@app.command(epilog="Example: edgegen export --tier high-phone --backend coreml,onnx --out out/mine")
def export(
    tier: Annotated[str, typer.Option(metavar="NAME", help="A tier (edgegen tiers), or a .toml file.")] = "low-android",
    backend: BackendList = "",
    checkpoint: CheckpointFolder = None,
    preset: Annotated[str, typer.Option(help="Random weights in the shape of: paper, emoji.")] = "",
    resolution: Annotated[str, typer.Option(metavar="WxH", help="Pixels; the checkpoint's own if left out.")] = "",
    components: Annotated[str, typer.Option(metavar="A,B", help="text_encoder, transformer, decoder.")] = "",
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
    from edgegen import export as work
    from edgegen import show
    from edgegen.target import load_tier

    chosen, pixels = load_tier(tier), parse_resolution(resolution)
    console, opened = show.console(), open_checkpoint(checkpoint, preset)
    plan = work.make_plan(opened, chosen, split(backend), split(components), pixels, out, overwrite)
    if bits is not None:
        if dry_run:
            raise InputError(
                "--dry-run does not tell what --bits would give.",
                "Run edgegen quantize, then --dry-run with its --checkpoint.",
            )
        from edgegen.quantize.command import quantized_for

        folder = plan.out.with_name(f"{opened.config.name}-{chosen.width:g}-{bits:g}")
        with show.Progress(console) as progress:
            opened = quantized_for(opened, chosen.width, bits, folder, tune_steps, overwrite, progress)
        plan = work.make_plan(opened, chosen, split(backend), split(components), pixels, out, overwrite)
    if dry_run:
        show.print_json(plan.to_dict()) if as_json else show.show_plan(console, plan)
        return
    with show.Progress(console) as progress:
        result = work.export(plan, progress)
    show.print_json(result.to_dict()) if as_json else show.show_result(console, result)


@app.command(epilog='Example: edgegen generate "a red heart" --bundle out/emoji/low-android --out heart.png')
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.", show_default=False)],
    bundle: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: the newest below ./out.")] = None,
    backend: Annotated[str | None, typer.Option(help="onnx, executorch, coreml or torch (the original).")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same noise, on every back end.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Default: the bundle's.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Default: the bundle's; 1 turns it off.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: named after the prompt.")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Also save what each step aims at.")] = False,
    checkpoint: CheckpointFolder = None,
    as_json: Json = False,
) -> None:
    """Draws a picture with a bundle's artifacts."""
    from edgegen import generate as work
    from edgegen import show

    request = work.Request(prompt, bundle, backend, seed, steps, guidance, out, preview, checkpoint)
    console = show.console()
    with show.Progress(console) as progress:
        drawn = work.generate(request, progress, progress.advance)
    if drawn.truncated:
        console.print("[yellow]warning:[/] the prompt is longer than the text encoders take; its end was left out.")
    show.print_json(drawn.to_dict()) if as_json else show.show_drawn(console, drawn)


@app.command(epilog="Example: edgegen verify out/emoji/low-android --backend onnx")
def verify(
    bundle: BundleFolder, backend: BackendList = "", checkpoint: CheckpointFolder = None, as_json: Json = False
) -> None:
    """Checks a bundle's files, then runs every artifact against PyTorch; exit code 1 if one is below its floor."""
    from edgegen import show
    from edgegen import verify as work

    console = show.console()
    with show.Progress(console) as progress:
        rows = work.verify_folder(bundle, checkpoint, split(backend), progress)
    if as_json:
        show.print_json(
            {"bundle": str(bundle), "passed": all(row.passed for row in rows), "verify": [asdict(row) for row in rows]}
        )
    else:
        show.show_rows(console, rows)
        work.require(rows, "Export the bundle again.")
    raise typer.Exit(0 if all(row.passed for row in rows) else 1)


@app.command(epilog="Example: edgegen inspect out/emoji/low-android --backend coreml")
def inspect(bundle: BundleFolder, backend: BackendList = "", as_json: Json = False) -> None:
    """Lists operations, transposes, reshapes, parameters and bytes, and checks the Neural Engine's rules."""
    from edgegen import inspection as work
    from edgegen import show

    console = show.console()
    with show.Progress(console) as progress:
        contents = work.inspect_folder(bundle, split(backend), progress)
    if as_json:
        show.print_json({"bundle": str(bundle), "components": [asdict(c) for c in contents]})
    else:
        show.show_contents(console, contents)


@app.command(epilog="Example: edgegen tiers --json")
def tiers(as_json: Json = False) -> None:
    """Lists the tiers: width, back ends, forms, floors."""
    from edgegen import show
    from edgegen.target import list_tiers

    found = list_tiers()
    show.print_json([asdict(tier) for tier in found]) if as_json else show.show_tiers(show.console(), found)


@app.command(epilog="Example: edgegen devices pixel8 --json")
def devices(
    name: Annotated[str, typer.Argument(help="One device; all if left out.")] = "", as_json: Json = False
) -> None:
    """Lists the devices and how many of their figures were checked; --json has the source of every one."""
    from edgegen import show
    from edgegen.target import list_devices, load_device

    found = [load_device(name)] if name else list_devices()
    show.print_json([asdict(device) for device in found]) if as_json else show.show_devices(show.console(), found)


@app.command(epilog="Example: edgegen doctor")
def doctor(as_json: Json = False) -> None:
    """Tells which back end can convert, verify and run here, with versions."""
    from edgegen import doctor as work
    from edgegen import show

    health = work.examine()
    show.print_json(asdict(health)) if as_json else show.show_health(show.console(), health)


def show_version(asked: bool) -> None:
    if asked:
        from edgegen import __version__

        print(f"edgegen {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Puts a trained text-to-image transformer on a phone: slice, rewrite, export, verify, draw."""
