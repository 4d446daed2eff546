"""The command `edgegen recommend`: which tier, bits and back end suit a device, a time and a memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from edgegen.bench.predict import readable
from edgegen.cli.options import BackendList, CheckpointFolder, Json, Preset, split
from edgegen.show import Cell, marked, size, table

if TYPE_CHECKING:
    from rich.console import Console

    from edgegen.bench.recommend import Advice, Option
    from edgegen.callbacks import Report
    from edgegen.target import Device

COLUMNS = ("", "tier", ">width", ">bits", "back end", ">{of}", ">interval", ">peak memory, interval", "doubt")
TITLE = "Predicted, with intervals"
RUNNER_UP = 2  # how many of those that fit are named, the best and the runner-up


def recommend(
    device: Annotated[str, typer.Option(metavar="NAME", help="A device (edgegen devices), or a .toml file.")],
    budget: Annotated[str, typer.Option(metavar="TIME", help="For a picture, or one run of a lone network: 3s.")] = "",
    memory: Annotated[str, typer.Option(metavar="SIZE", help="At the peak: 1.5GB. Default: one app's limit.")] = "",
    backend: BackendList = "",
    bundle: Annotated[Path | None, typer.Option(metavar="DIR", help="Judge this bundle.")] = None,
    checkpoint: CheckpointFolder = None,
    preset: Preset = "",
    as_json: Json = False,
) -> None:
    """Names the tier, bits and back end that fit a device, with the runner-up; every figure is predicted."""
    from edgegen import show
    from edgegen.bench import recommend as work
    from edgegen.target import load_device

    target = load_device(device)
    seconds = work.parse_seconds(budget) if budget else None
    limit = work.parse_bytes(memory) if memory else None
    console = show.console()
    with show.Progress(console) as progress:
        options = gather(target, bundle, checkpoint, preset, named(backend), progress)
    advice = work.advise(options, target, seconds, limit)
    show.print_json(advice.to_dict()) if as_json else show_advice(show.results(), advice)
    raise typer.Exit(0 if advice.fitting else 1)


def named(backends: str) -> list[str]:
    """The back ends asked for; an unknown one is an error."""
    from edgegen.backends.registry import find_backend

    return [find_backend(name).name for name in split(backends)]


def gather(
    device: Device, bundle: Path | None, checkpoint: Path | None, preset: str, backends: Sequence[str], report: Report
) -> list[Option]:
    """The options of a bundle, or of every tier of a checkpoint's or preset's shape, on back ends; on all if empty."""
    from edgegen.bench import recommend as work
    from edgegen.bundle import load_bundle
    from edgegen.errors import InputError
    from edgegen.foreign.folder import is_foreign
    from edgegen.model.checkpoint import bundled_folder, load_checkpoint
    from edgegen.model.random_checkpoint import preset_config
    from edgegen.target import list_tiers

    if sum(map(bool, (bundle, checkpoint, preset))) > 1:
        raise InputError("--bundle, --checkpoint and --preset exclude each other.", "Give one of them.")
    if bundle:
        found = load_bundle(bundle)
        check_held(backends, [b for tier in found.tiers for b in tier.backends], bundle)
        return [o for tier in found.tiers for o in work.options_of_bundle(tier, device, backends, report)]
    if checkpoint and is_foreign(checkpoint):
        raise InputError(f"{checkpoint} holds another project's networks.", "Export it and give --bundle.")
    config = preset_config(preset) if preset else load_checkpoint(checkpoint or bundled_folder()).config
    check_held(backends, [b for tier in list_tiers() for b in tier.backends], "no tier")
    return work.options_of_config(config, list_tiers(), device, backends, report)


def check_held(asked: Sequence[str], has: Sequence[str], where: Path | str) -> None:
    """Refuses a back end that nothing would be judged on."""
    from edgegen.errors import InputError

    for name in asked:
        if name not in has:
            raise InputError(f"{where} has no {name}.", f"It has: {', '.join(dict.fromkeys(has))}.")


def show_advice(to: Console, advice: Advice) -> None:
    """A table of what fits, the best first; what the figures rest on, each once; then why the others do not."""
    of = next((option.of for option in (*advice.fitting, *advice.others)), "a picture")
    budget = "no time limit" if advice.budget is None else f"{advice.budget:g} s for {of}"
    limit = "unknown" if advice.memory is None else f"{advice.memory / 1e9:g} GB"
    to.print(
        f"[bold]{escape(advice.device.title)}[/] ({escape(str(advice.device.chip.value))}), {budget}, memory {limit}. "
        f"Every figure is [yellow]predicted[/].\nmemory: {escape(advice.memory_note)}",
        soft_wrap=True,
    )
    if advice.fitting:
        columns = [column.format(of=of.removeprefix("a ")) for column in COLUMNS]
        to.print(table(columns, [row_of(advice, place, option) for place, option in enumerate(advice.fitting)], TITLE))
        for basis in dict.fromkeys(option.time.basis for option in advice.fitting if option.time):
            to.print(f"Times: {escape(basis)}.", soft_wrap=True)
        for runs in dict.fromkeys(told_runs(option) for option in advice.fitting):
            to.print(f"{of.capitalize()}: {escape(runs)}.", soft_wrap=True)
    else:
        to.print("[red]Nothing fits.[/]")
    show_others(to, advice)


def told_runs(option: Option) -> str:
    """How often each network runs in an option's time."""
    return ", ".join(f"{name} {count} time{'s' if count > 1 else ''}" for name, count in option.runs.items())


def row_of(advice: Advice, place: int, option: Option) -> tuple[Cell, ...]:
    """One option that fits."""
    assert option.time is not None and option.memory is not None
    word = ("best", "runner-up")[place] if place < RUNNER_UP else ""
    told = option.memory.to_dict()
    return (
        marked(word, "green"),
        option.tier,
        f"{option.width:g}",
        f"{option.bits:g}",
        option.backend,
        readable(option.time.milliseconds),
        option.time.interval,
        f"{size(told['predicted_bytes'])}, {size(told['low'])} to {size(told['high'])}",
        marked("; ".join(option.doubts(advice.budget, advice.memory)), "yellow"),
    )


def show_others(to: Console, advice: Advice) -> None:
    """Why options do not fit: each reason once, with those it holds for."""
    reasons: dict[str, list[str]] = {}
    for option in advice.others:
        why = "; ".join(option.too_much(advice.budget, advice.memory))
        reasons.setdefault(why, []).append(f"{option.tier} {option.bits:g} bits {option.backend}")
    for why, names in reasons.items():
        to.print(f"not {escape(', '.join(names))}: {escape(why)}", soft_wrap=True)
