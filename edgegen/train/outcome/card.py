"""The model card: a template filled with what the runs' states and logs say; no number is written by hand."""

from __future__ import annotations

import json
import math
import shlex
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from torch import Tensor

from edgegen.emoji.captions import STYLES, assign_splits, common_concepts
from edgegen.emoji.fetch import sources
from edgegen.emoji.scenes import COLOURS, HELD_OUT_FACTS, SceneSource
from edgegen.model.checkpoint_config import CheckpointConfig
from edgegen.model.elastic import skeleton
from edgegen.runs.run_state import state_folders
from edgegen.train.run.recipe import load_recipe
from edgegen.train.run.registry import BUNDLED
from edgegen.train.stages.results import NOTHING, read_log, read_state

PAUSE_S = 600  # between two rows of a log: longer is a run that stood still
WAYS = ("word", "byte", "both")  # the text stage's losses
LOSSES = (*WAYS, "few_step", "kd", "critic")  # what stages without a number named loss log of theirs
NOT_YET = "not measured yet"
States = Mapping[str, Mapping[str, Tensor]]


def model_card(config: CheckpointConfig, states: States, runs_dir: Path, note: str = "") -> str:
    """The card of a checkpoint made of the stages in `runs_dir`."""
    template = files("edgegen.train").joinpath("recipes/model_card.md").read_text(encoding="utf-8")
    splits = Counter(assign_splits(common_concepts()).values())
    return Template(template).substitute(
        name=config.name,
        pixels=config.resolution[0],
        unfinished=unfinished_note(runs_dir),
        parts=parts_table(states),
        total=f"Together {total_bytes(states) / 1e6:.1f} MB",
        widths=", ".join(f"{width:g}: {parameters_at(config, width):,}" for width in config.transformer.widths),
        sampler=f"{config.sampler.steps} Euler steps, shift {config.sampler.shift:g}, guidance "
        f"{config.sampler.guidance:g}",
        prompts=", ".join(f'"{prompt}"' for prompt in config.prompts),
        sources=sources_table(),
        seen=describe_pictures(saved_recipe(runs_dir / "elastic").get("data", {}), splits),
        unseen_concept=splits["unseen_concept"],
        unseen_style=splits["unseen_style"],
        watched=describe_validation(saved_recipe(runs_dir / "elastic").get("data", {})),
        commands=commands(runs_dir),
        stages=stages_table(runs_dir),
        validation=validation_table(read_log(runs_dir / "elastic")),
        autoencoder=fidelity(last_values(read_log(runs_dir / "autoencoder"), "psnr_")),
        text=retrieval_table(last_values(read_log(runs_dir / "text"), "r1_")),
        note="\n\n" + textwrap.fill(note, 120) if note else "",
    )


def describe_pictures(data: Mapping[str, Any], splits: Mapping[str, int]) -> str:
    """What the transformer saw: single emoji, or scenes and a share of those."""
    singles = (
        f"{splits['train']} of {sum(splits.values())} pictures of one emoji ({len(common_concepts())} concepts, "
        f"each in the styles {' and '.join(STYLES)}; skin tones left out), rendered at 128x128 on white"
    )
    if not data.get("scenes"):
        return textwrap.fill(f"The transformer saw {singles}.", 120)
    known, unknown = (len(SceneSource(split).names) for split in ("train", "concepts"))
    return textwrap.fill(
        f"The transformer saw {data['scenes']:,} scenes of one to three of {known} things, in two styles, "
        f"{len(COLOURS)} colours and their own, at places and in sizes that are whole tokens, on white or a light "
        f"background, each with three captions that say object, number, colour and position in varied words "
        f"(`edgegen/emoji/scenes.py`). {unknown} things it never saw at all, and {HELD_OUT_FACTS:.0%} of the "
        "pairs, of the colours of a thing and of the numbers of a thing never together. "
        f"{data['single_share']:.0%} of a batch were {singles}.",
        120,
    )


def describe_validation(data: Mapping[str, Any]) -> str:
    """What the loss in the table is of."""
    if data.get("scenes"):
        return "new scenes of facts that training saw"
    return (
        "pictures of known concepts in an unseen style (a picture a caption is little, so it says more about "
        "overfitting than about quality)"
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def count(state: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in state.values())


def total_bytes(states: States) -> int:
    """Bytes of all weights in fp16."""
    return 2 * sum(count(state) for state in states.values())


def parts_table(states: States) -> str:
    rows = [(part, f"{count(state):,}", f"{2 * count(state) / 1e6:.1f} MB") for part, state in states.items()]
    return table(("part", "parameters", "fp16"), rows)


def parameters_at(config: CheckpointConfig, width: float) -> int:
    return sum(p.numel() for p in skeleton(config.transformer.at(width)).parameters())


def sources_table() -> str:
    rows = [(f"{s.registry} `{s.package}` {s.version}", s.licence, s.used_for, f"`{s.sha256}`") for s in sources()]
    return table(("package", "licence", "used for", "sha256 of the package"), rows)


def last_values(rows: Sequence[Mapping[str, float]], prefix: str) -> dict[str, float]:
    """The last value of each number whose name begins with `prefix`."""
    return {name: value for row in rows for name, value in row.items() if name.startswith(prefix)}


def fidelity(values: Mapping[str, float]) -> str:
    return f"{values['psnr_mean']:.1f} dB in the mean, {values['psnr_worst']:.1f} dB at worst" if values else NOT_YET


def retrieval_table(values: Mapping[str, float]) -> str:
    """R@1 by what is read and kind of hold-out, from names like r1_word_caption."""
    kinds = {"caption": "known subject", "subject": "unknown subject"}
    rows = [(way, *(f"{values.get(f'r1_{way}_{kind}', math.nan):.0%}" for kind in kinds)) for way in WAYS]
    return table(("read", *kinds.values()), rows).replace("nan%", "") if values else NOT_YET


def seconds_of(rows: Sequence[Mapping[str, float]]) -> float:
    """Wall time between the rows of a log, without pauses."""
    gaps = [later["time"] - earlier["time"] for earlier, later in zip(rows, rows[1:], strict=False)]
    return sum(gap for gap in gaps if 0 < gap < PAUSE_S)


def stages_table(runs_dir: Path) -> str:
    rows = []
    for stage in trained_stages(runs_dir):
        for folder in state_folders(runs_dir / stage):
            state, log = read_state(folder, NOTHING), read_log(folder)
            training = state.settings["training"]
            losses = last_values(log, "loss") or {n: v for n, v in last_values(log, "").items() if n in LOSSES}
            name = stage if folder.name == stage else f"{stage}, width {folder.name}"
            rows.append(
                (
                    name,
                    f"{state.step:,}",
                    training["batch"],
                    training["seed"],
                    ", ".join(f"{name} {value:.3f}" for name, value in losses.items()),
                    f"{seconds_of(log) / 3600:.1f} h",
                )
            )
    return table(("stage", "steps", "batch", "seed", "last training losses", "time"), rows)


def validation_table(rows: Sequence[Mapping[str, float]]) -> str:
    """The validation loss of each width as training went on."""
    rows = [row for row in rows if any(name.startswith("val@") for name in row)]
    if not rows:
        return NOT_YET
    names = [name for name in rows[-1] if name.startswith("val@")]
    cells = [[f"{row['step']:,}", *(f"{row[name]:.4f}" for name in names)] for row in rows]
    return table(("step", *(f"width {float(name.removeprefix('val@')):g}" for name in names)), cells)


def saved_recipe(run_dir: Path) -> dict[str, Any]:
    """The recipe that a run was started with; empty when it was not started by `edgegen train`."""
    path = run_dir / "recipe.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def recipe_of(folder: Path) -> dict[str, Any]:
    """The recipe of a folder with a saved state: its own, or that of the stage it is one width of."""
    return saved_recipe(folder) or saved_recipe(folder.parent)


def commands(runs_dir: Path) -> str:
    """The commands that make this checkpoint again; widths that were started together share one."""
    lines = ["edgegen train fetch --data data"]
    for stage in trained_stages(runs_dir):
        for folder in state_folders(runs_dir / stage):
            changes = "".join(f" --set {shlex.quote(change)}" for change in changed_settings(folder, stage))
            processes = recipe_of(folder).get("processes", 1)
            program = "edgegen" if processes == 1 else f"torchrun --nproc-per-node {processes} -m edgegen"
            lines.append(f"{program} train {stage} --data data --runs runs{changes}")
    return "\n".join([*dict.fromkeys(lines), "edgegen train assemble --runs runs --out emoji"])


def changed_settings(folder: Path, stage: str) -> list[str]:
    """Settings of a run that differ from the bundled recipe, as `key=value`."""
    bundled = json.loads(json.dumps(load_recipe(stage).to_dict()))  # tuples become lists, as in the saved ones
    saved = recipe_of(folder) or read_state(folder, NOTHING).settings
    return [
        f"{'' if part == 'training' else f'{part}.'}{name}={as_setting(value)}"
        for part in ("model", "training", "data")
        for name, value in saved.get(part, {}).items()
        if not isinstance(value, dict) and value != bundled[part].get(name)
    ]


def as_setting(value: Any) -> str:
    """A value as --set takes it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def unfinished_note(runs_dir: Path) -> str:
    """Says so when a stage has not done all its steps."""
    notes = []
    for stage in trained_stages(runs_dir):
        for folder in state_folders(runs_dir / stage):
            done, planned = read_state(folder, NOTHING).step, planned_steps(recipe_of(folder).get("training", {}))
            if done < planned:
                notes.append(f"stage {stage} had done {done:,} of {planned:,} steps")
    return f"\n**Not finished: {'; '.join(notes)} when this was assembled.**\n" if notes else ""


def planned_steps(training: Mapping[str, Any]) -> int:
    """All steps of a run's settings, those of the few-step teacher before a distillation too; 0 of none."""
    teaches = training.get("kd", 0) or training.get("kd_features", 0)
    return training.get("steps", 0) + (training.get("teacher_steps", 0) if teaches else 0)


def trained_stages(runs_dir: Path) -> list[str]:
    """The stages of this folder that a checkpoint is made of; those it has no run of came from elsewhere."""
    return [stage for stage in BUNDLED if state_folders(runs_dir / stage)]
