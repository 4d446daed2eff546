"""Run a stage, or all of them: fetch what it reads, train or resume it in `runs_dir/<stage>`, tell what came out."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgegen.errors import InputError, unknown
from edgegen.files import write_json
from edgegen.runs import parallel
from edgegen.runs.device import native_bfloat16, pick_device
from edgegen.runs.run_state import saved_steps, state_folders
from edgegen.train.run.recipe import Recipe, load_recipe
from edgegen.train.run.registry import BUNDLED, STAGES
from edgegen.train.run.stage import Stage
from edgegen.train.stages.results import read_log


def train(
    source: str | Path,
    data_dir: Path,
    runs_dir: Path,
    overrides: Sequence[str] = (),
    device: str = "cpu",
    resume: bool = True,
) -> dict[str, Any]:
    """Trains the stage of a recipe (a name or a .toml file), resuming what is there; returns its last numbers.

    Later stages find the results of earlier ones in `runs_dir`. Under torchrun some stages share the work.
    Without `resume` a run that is there is an error.
    """
    recipe = load_recipe(source, overrides)
    device = pick_device(device)
    parallel.join_if_launched(device)
    try:
        return run_stage(recipe, data_dir, runs_dir, device, resume)
    finally:
        parallel.leave()


def train_all(data_dir: Path, runs_dir: Path, overrides: Sequence[str] = ()) -> list[dict[str, Any]]:
    """All stages in order, in one process; overrides begin with a stage: `elastic.steps=100`."""
    split = split_by_stage(overrides)
    recipes = [load_recipe(stage, split[stage]) for stage in BUNDLED]  # refuses before anything runs
    return [run_stage(recipe, data_dir, runs_dir) for recipe in recipes]


def split_by_stage(overrides: Sequence[str]) -> dict[str, list[str]]:
    """The overrides of each stage, without its name."""
    split: dict[str, list[str]] = {stage: [] for stage in BUNDLED}
    for item in overrides:
        stage, _, rest = item.partition(".")
        if stage not in BUNDLED or not rest:
            raise unknown("stage at the start of", item, BUNDLED)
        split[stage].append(rest)
    return split


def run_stage(
    recipe: Recipe, data_dir: Path, runs_dir: Path, device: str = "cpu", resume: bool = True
) -> dict[str, Any]:
    """Trains one stage in its folder; nothing is written there before its input is known to be good."""
    stage = STAGES[recipe.stage]
    check_processes(stage)
    check_device(stage, device)
    warn_of_slow_bfloat16(recipe)
    run_dir = runs_dir / stage.name
    if not resume:
        check_unused(run_dir)
    start = stage.prepare(recipe, data_dir, runs_dir, run_dir)
    before = steps_done(run_dir)
    if not before:
        write_note(run_dir, recipe)
    start(**({} if device == "cpu" else {"device": device}))
    parallel.wait()  # the first process may still be saving
    if steps_done(run_dir) != before:
        write_note(run_dir, recipe)  # a resumed run may have been given other steps
    return summary(stage.name, run_dir)


def steps_done(run_dir: Path) -> int:
    """The number of steps that a run's saved state has seen; of a run in folders, one a width, all together."""
    return sum(saved_steps(folder) for folder in state_folders(run_dir))


def write_note(run_dir: Path, recipe: Recipe) -> None:
    """What the run was started with, for the model card; widths with folders of their own may differ."""
    if parallel.rank() != 0:
        return
    width = getattr(recipe.training, "width", 0.0)
    widths = [run_dir / f"{width:g}"] if width else [folder for folder in state_folders(run_dir) if folder != run_dir]
    for folder in (run_dir, *widths):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "recipe.json", recipe.to_dict() | {"processes": parallel.world_size()})


def check_device(stage: Stage, device: str) -> None:
    """Refuses a device that a stage does not use."""
    if not stage.uses_devices and device != "cpu":
        raise InputError(f"stage {stage.name} trains on the CPU, not on {device}.", "Leave out --device.")


def check_unused(run_dir: Path) -> None:
    """Refuses a folder that holds a run."""
    if steps_done(run_dir):
        raise InputError(
            f"{run_dir} holds a run of {steps_done(run_dir)} steps.",
            "Leave out --no-resume to go on with it, or choose another folder with --runs.",
        )


def check_processes(stage: Stage) -> None:
    """Only some stages share their work; others would write one folder twice."""
    if not stage.shares_work and parallel.world_size() > 1:
        raise InputError(
            f"stage {stage.name} runs in one process, torchrun started {parallel.world_size()}.",
            "Start it without torchrun.",
        )


def warn_of_slow_bfloat16(recipe: Recipe) -> None:
    """One line where bfloat16 would be emulated, many times slower than fp32."""
    wanted = getattr(recipe.training, "bfloat16", False)  # other stages measure
    if wanted and platform.machine() == "x86_64" and not native_bfloat16() and parallel.rank() == 0:
        print(
            "This processor has no bfloat16 instructions: --set bfloat16=false will be several times faster.",
            file=sys.stderr,
        )


def summary(stage: str, run_dir: Path) -> dict[str, Any]:
    """The stage, its folder, the steps done and the last value of each number it logged."""
    numbers: dict[str, float] = {}
    for folder in state_folders(run_dir):
        suffix = "" if folder == run_dir else f"@{folder.name}"
        for row in read_log(folder):
            numbers |= {f"{name}{suffix}": value for name, value in row.items() if name not in ("step", "time")}
    return {"stage": stage, "run": str(run_dir), "steps": steps_done(run_dir), **numbers}
