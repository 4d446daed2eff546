"""`edgegen export` of networks that are not ours: a module of the user's own, or a folder of diffusers."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from edgegen.cli.options import parse_resolution, split
from edgegen.cli.verify import decibels
from edgegen.errors import InputError
from edgegen.show import size, table

if TYPE_CHECKING:
    from edgegen.foreign.export import ForeignResult

Module = Annotated[
    str, typer.Option(metavar="FILE.py:FUNCTION", help="A network of your own: the function makes it. Runs the file.")
]
Inputs = Annotated[str, typer.Option(metavar="A=1x4x8x8,B=1:int64", help="With --module: example inputs, random.")]
Constant = Annotated[str, typer.Option(metavar="A,B", help="With --module: inputs that become part of the program.")]
Tokens = Annotated[
    int, typer.Option(metavar="N", help="With a diffusers folder: its max_sequence_length; default: its own.")
]
Lora = Annotated[Path | None, typer.Option(metavar="DIR", help="LoRA safetensors to merge into the transformer.")]
LoraScale = Annotated[float, typer.Option(metavar="S", help="With --lora: its strength.")]


@dataclass(frozen=True)
class ForeignOptions:
    """The options that only such networks take."""

    module: str
    inputs: str
    constant: str
    tokens: int
    lora: Path | None
    lora_scale: float

    def refuse_with_ours(self) -> None:
        """Refuses them beside a checkpoint of ours."""
        if self.inputs or self.constant or self.tokens or self.lora:
            raise InputError("--inputs, --constant, --tokens and --lora go with --module or a folder of diffusers.")


def export_foreign(
    console: Console,
    options: ForeignOptions,
    checkpoint: Path | None,
    components: str,
    resolution: str,
    shared: dict[str, Any],
    as_json: bool,
) -> None:
    """Exports and shows; `shared` is what both kinds take: tier, back ends, out, overwrite, bits."""
    from edgegen import api, show

    if options.module and (checkpoint or components or resolution or options.tokens or options.lora):
        raise InputError("--checkpoint, --components, --resolution, --tokens and --lora do not go with --module.")
    with show.Progress(console) as progress:
        if options.module:
            made = api.export_file(options.module, options.inputs, split(options.constant), progress=progress, **shared)
        else:
            made = api.export_folder(
                checkpoint or "", components=split(components), resolution=parse_resolution(resolution),
                tokens=options.tokens, lora=options.lora, lora_scale=options.lora_scale, progress=progress, **shared,
            )  # fmt: skip
    show.print_json(made.to_dict()) if as_json else show_foreign(console, made)


def show_foreign(to: Console, result: ForeignResult) -> None:
    """The table of an export of foreign networks."""
    rows = []
    sizes = {(artifact.name, artifact.backend): f"{artifact.bytes:,}" for artifact in result.artifacts}
    for row in result.rows:  # of a network in chunks, one for each and one for the network
        found = result.networks.get(row.component, {}).get("backends", {}).get(row.backend)
        told = (str(found["moves"]), ", ".join(found["unknown"]) or "none") if found else ("", "")
        rows.append((row.component, row.backend, sizes.get((row.component, row.backend), ""), *told, *decibels(row)))
    heads = ("component", "back end", ">bytes", ">moves", "without a layout", ">PSNR", ">floor")
    to.print(table(heads, rows, f"{result.model}, tier {result.tier.name}"))
    for name, told in result.left_out.items():
        to.print(
            f"[yellow]Left out:[/] {name} ({told['class']}), {size(told['bytes'])} of weights; an app of this tier may "
            f"hold {size(told['limit_bytes'])}. --components takes it all the same.",
            soft_wrap=True,
        )
    to.print(f"{result.seconds:.0f} s, {size(result.peak_bytes)} of memory at the peak.")
    to.print(f"Bundle: {escape(str(result.out))}", soft_wrap=True)
    drawn = "generate 'a red fox in the snow' --bundle" if result.is_pipeline else "verify"
    to.print(f"Next: [bold]edgegen {drawn} {escape(shlex.quote(str(result.out)))}[/]", soft_wrap=True)
