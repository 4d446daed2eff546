"""The model card of a checkpoint whose transformer learnt from a user's dataset: what the run knows, and no path."""

from __future__ import annotations

import json
import textwrap
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from edgegen.model.checkpoint_config import CheckpointConfig
from edgegen.train.data.dataset import DataConfig
from edgegen.train.outcome.card import (
    States,
    parameters_at,
    parts_table,
    sources_table,
    stages_table,
    total_bytes,
    unfinished_note,
    validation_table,
)
from edgegen.train.stages.frozen import BUNDLED, uses_runs
from edgegen.train.stages.results import read_log

TOLD = ("kind", "pixels", "max_ratio", "max_enlarge", "max_crop", "validation_pictures")  # of the data's settings


def own_card(config: CheckpointConfig, states: States, runs_dir: Path, data: dict[str, Any], note: str = "") -> str:
    """The card of a checkpoint whose transformer was trained on `data`, the [data] table of its run."""
    template = files("edgegen.train").joinpath("recipes/own_card.md").read_text(encoding="utf-8")
    settings = data | {name: value for name, value in vars(DataConfig()).items() if name not in data}
    own = uses_runs(runs_dir, settings["encoders"])
    bundled = not own and settings["encoders"] in ("", BUNDLED)
    return Template(template).substitute(
        name=config.name,
        width=config.resolution[0],
        height=config.resolution[1],
        unfinished=unfinished_note(runs_dir),
        parts=parts_table(states),
        total=f"Together {total_bytes(states) / 1e6:.1f} MB",
        widths=", ".join(f"{width:g}: {parameters_at(config, width):,}" for width in config.transformer.widths),
        sampler=f"{config.sampler.steps} Euler steps, shift {config.sampler.shift:g}, guidance "
        f"{config.sampler.guidance:g}",
        prompts=", ".join(f'"{prompt}"' for prompt in config.prompts),
        dataset=Path(settings["path"]).name,
        settings=", ".join(f"{name} {json.dumps(settings[name])}" for name in TOLD),
        validation_share=f"{settings['validation']:.0%}",
        encoders="encoders trained beside it"
        if own
        else "edgegen's bundled encoders"
        if bundled
        else f"the encoders of the checkpoint `{Path(settings['encoders']).name}`",
        stages=stages_table(runs_dir),
        validation=validation_table(read_log(runs_dir / "elastic")),
        note="\n\n" + textwrap.fill(note, 120) if note else "",
        notices=f"\n\nThe bundled encoders learnt from:\n\n{sources_table()}\n\nTheir notices are in "
        "`THIRD_PARTY_NOTICES.md` of edgegen."
        if bundled
        else "",
    )
