"""The program: its commands, each in a file of its own, and what an error looks like.

Commands import what they need when they run, so that help and errors come at once.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from edgegen.cli.app import app_app
from edgegen.cli.bench import bench
from edgegen.cli.devices import devices
from edgegen.cli.doctor import doctor
from edgegen.cli.evaluate import evaluate_app
from edgegen.cli.export import export
from edgegen.cli.families import families
from edgegen.cli.generate import generate
from edgegen.cli.inspect import inspect
from edgegen.cli.quantize import quantize
from edgegen.cli.ranges import ranges
from edgegen.cli.recommend import recommend
from edgegen.cli.tiers import tiers
from edgegen.cli.train import train_app
from edgegen.cli.verify import verify
from edgegen.errors import InputError, Interrupted
from edgegen.failures import expected
from edgegen.process import apart, crash
from edgegen.streams import repair_


class Commands(TyperGroup):
    """The commands; an interruption is told like an error, which typer alone would not."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted("interrupted.", notes(error)) from None


def notes(error: BaseException) -> str:
    """What was added to an error on its way."""
    return " ".join(getattr(error, "__notes__", ()))


app = typer.Typer(
    name="edgegen",
    cls=Commands,
    help="Puts a trained text-to-image transformer on a phone: slice, rewrite, export, verify, draw.",
    epilog="Start with: edgegen export --tier low-android",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for command, example in (
    (export, "edgegen export --tier high-phone --backend coreml,onnx --out out/mine"),
    (generate, 'edgegen generate "a red heart" --bundle out/emoji/low-android --out heart.png'),
    (verify, "edgegen verify out/emoji/low-android --backend onnx"),
    (inspect, "edgegen inspect out/emoji/low-android --backend coreml"),
    (quantize, "edgegen quantize --bits 4.3 --width 0.5 --out out/emoji-4.3"),
    (bench, "edgegen bench --bundle out/emoji/low-android --compare onnx executorch"),
    (recommend, "edgegen recommend --device pixel8 --budget 3s --memory 1.5GB"),
    (tiers, "edgegen tiers --json"),
    (families, "edgegen families --json"),
    (ranges, "edgegen ranges --checkpoint ./PixArt-Sigma-XL-2-1024-MS"),
    (devices, "edgegen devices pixel8 --json"),
    (doctor, "edgegen doctor"),
):
    app.command(epilog=f"Example: {example}")(command)
app.add_typer(app_app(), name="app")
app.add_typer(train_app(), name="train")
app.add_typer(evaluate_app(), name="evaluate")


APART = ("generate", "verify", "inspect", "bench", "recommend")  # they open artifacts that may come from anywhere
READING = 600.0  # seconds that those which only read artifacts may take
JUST_READ = ("inspect", "recommend")
STILL = 3600.0  # seconds that artifacts may run without a sign of progress: one of them may hold a loop without end


def main() -> None:
    """The entry point of the command `edgegen`; ends in good order when asked to terminate."""
    repair_()
    arguments = sys.argv[1:]
    command = next((word for word in arguments if not word.startswith("-")), "")
    if command in APART:
        code = apart(READING if command in JUST_READ else None, STILL)
        if code is not None:
            sys.exit(told(code, "--json" in arguments))
    asked: list[int] = []  # kept, since a library that catches everything can turn the exit into an error of its own

    def end(number: int, frame: object) -> None:
        asked.append(128 + number)
        sys.exit(asked[0])

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    try:
        code = run(arguments)
    except BaseException:
        if not asked:
            raise
    sys.exit(ended_by(asked[0], "--json" in arguments) if asked else code)


def ended_by(code: int, as_json: bool) -> int:
    """Tells of the signal that asked the program to end, whose exit code this is."""
    from edgegen.show import print_error

    print_error(f"ended by {signal.Signals(code - 128).name}.", "", code, as_json)
    return code


def told(code: int, as_json: bool) -> int:
    """The exit code of a command that ran in a process of its own; a crash of it is told in one line."""
    from edgegen.show import print_error

    found = crash(code)
    if found is None:
        return 128 - code if code < 0 else code
    print_error(*found, InputError.exit_code, as_json)
    return InputError.exit_code


def run(arguments: list[str]) -> int:
    """Runs a command line; every expected failure is one line on stderr. Returns the exit code."""
    from edgegen.show import print_error

    as_json = "--json" in arguments
    try:
        code = app(args=arguments, prog_name="edgegen", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except typer.Abort:
        print_error("interrupted.", "", 130, as_json)
        return 130
    except Exception as error:
        if os.environ.get("EDGEGEN_DEBUG"):
            raise
        if hasattr(error, "format_message"):  # typer's own usage errors, of whichever click it carries
            return usage(error, as_json)
        found = expected(error)
        if found is None:
            raise
        print_error(found.message, f"{found.remedy} {notes(error)}".strip(), found.exit_code, as_json)
        return found.exit_code


def usage(error: Any, as_json: bool) -> int:
    """Tells of a command line that cannot be read."""
    from edgegen.show import print_error

    code = getattr(error, "exit_code", 2)
    if type(error).__name__ == "NoArgsIsHelpError":  # the help was printed: nothing is wrong but the missing word
        return code
    if code or str(error):
        found = InputError(error.format_message(), "Try --help.")
        print_error(found.message, found.remedy, code, as_json)
    return code


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
