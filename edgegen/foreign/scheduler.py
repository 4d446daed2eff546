"""The scheduler of a pipeline's folder: its class, its configuration, and what an app knows its sampler by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from edgegen.foreign.data import no_network
from edgegen.foreign.folder import PIPELINE, import_library, read_object
from edgegen.foreign.observe import part_of
from edgegen.manifest_pipeline import Scheduler
from edgegen.schema import from_values

NAME = "scheduler"
KEYS = tuple(f.name for f in fields(Scheduler) if f.name != "class_")
SOLVERS = {"dpmsolver": "DPM-Solver", "dpmsolver++": "DPM-Solver++", "sde-dpmsolver": "SDE DPM-Solver",
           "sde-dpmsolver++": "SDE DPM-Solver++"}  # fmt: skip
SAMPLERS = {
    "FlowMatchEulerDiscreteScheduler": "flow-matching Euler",
    "FlowMatchHeunDiscreteScheduler": "flow-matching Heun",
    "SCMScheduler": "SCM",
}
Told = dict[str, Any]


def told_scheduler(folder: Path) -> Told:
    """The class of a folder's scheduler and what its configuration says, with the defaults of its class; empty without
    one. A class that this diffusers does not have is told by its name alone.
    """
    entry = read_object(folder / PIPELINE).get(NAME)
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], str):
        return {}
    if entry[0] == "diffusers" and not hasattr(import_library("diffusers"), entry[1]):
        return {"class": entry[1]}
    made = part_of(NAME, entry, folder / NAME, no_network)
    return {} if made is None else told_configuration(entry[1], made.config)


def told_configuration(class_name: str, config: Mapping[str, Any]) -> Told:
    """Of a configuration what a manifest keeps; a value of a wrong type is an InputError."""
    told = {"class": class_name, **{key: config[key] for key in KEYS if config.get(key) is not None}}
    from_values(Scheduler, told, NAME)
    return told


def sampler_of(scheduler: Told) -> str:
    """What a sampler is called; one without a name of its own is called by its class."""
    name = scheduler["class"]
    if name == "DPMSolverMultistepScheduler" and scheduler.get("algorithm_type") in SOLVERS:
        return ("flow-matching " if scheduler.get("use_flow_sigmas") else "") + SOLVERS[scheduler["algorithm_type"]]
    return SAMPLERS.get(name, name)


def prediction_of(scheduler: Told) -> str:
    """What a scheduler takes a network's result for; empty if it does not say."""
    said = scheduler.get("prediction_type", "velocity" if scheduler["class"].startswith("FlowMatch") else "")
    return "velocity" if said == "flow_prediction" else said


def named(scheduler: Told) -> Told:
    """The sampler and the prediction of a network's entry."""
    if not scheduler:
        return {}
    prediction = prediction_of(scheduler)
    return {"sampler": sampler_of(scheduler)} | ({"prediction": prediction} if prediction else {})
