"""A pipeline of diffusers whose networks are a bundle's artifacts: its own sampler and tokenizers, our programs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from edgegen.bundle import Artifact, Bundle
from edgegen.callbacks import ArrayFunction
from edgegen.chain import signature
from edgegen.errors import InputError
from edgegen.foreign.artifact_module import ArtifactModule
from edgegen.foreign.data import FOLDER
from edgegen.foreign.folder import PIPELINE, list_parts, load_part
from edgegen.foreign.observe import assemble, call_arguments, config_of
from edgegen.foreign.truncation import watch_tokenizers_
from edgegen.manifest import ForeignManifest
from edgegen.pipeline.artifact import open_network
from edgegen.quiet import quietly
from edgegen.show import size

Open = Callable[[Bundle, str, str], ArrayFunction]


def open_native(bundle: Bundle, name: str, backend: str) -> ArrayFunction:
    """A network as its back end runs it fastest here."""
    return open_network(bundle, name, backend, native=True)


def open_pipeline(bundle: Bundle, backend: str, checkpoint: Path | None = None, open_: Open = open_native) -> Any:
    """The pipeline of a bundle, its networks run by a back end; those left out come from the original folder.

    open_: gives the function of a network on a back end. InputError where one is missing that the pipeline cannot do
    without.
    """
    folder = bundle.root / FOLDER
    if not (folder / PIPELINE).is_file():
        raise InputError(f"{bundle.root} holds networks and no pipeline.", "Export the folder of a whole pipeline.")
    told, originals = described(bundle), {}
    if checkpoint is not None:
        originals = {part.name: part for part in list_parts(checkpoint)}

    def network(name: str, kind: Any, at: Path) -> Any:
        entry = told["networks"].get(name)
        if entry is not None:
            whole = as_one(bundle.programs(name, backend))
            return ArtifactModule(kind, config_of(kind, at), entry, whole, open_(bundle, name, backend))
        if name in originals:
            return quietly(lambda: load_part(originals[name]))
        require_optional(bundle, name, told)
        return None

    return assemble(folder, network)


def as_one(programs: Sequence[Artifact]) -> Artifact:
    """The programs of a network as one would be, by what goes in and out."""
    inputs, outputs = signature(programs)
    return replace(programs[0], name=programs[0].network, inputs=inputs, outputs=outputs)


def described(bundle: Bundle) -> dict[str, Any]:
    """What the manifest says of networks and of their pipeline."""
    assert isinstance(bundle.manifest, ForeignManifest)
    return bundle.manifest.pipeline


def require_optional(bundle: Bundle, name: str, told: Mapping[str, Any]) -> None:
    """Refuses a bundle without a network that its pipeline needs."""
    if name in told.get("optional", ()):
        return
    left = told.get("left_out", {}).get(name)
    why = f"was left out ({size(left['bytes'])})" if left else "was not exported"
    raise InputError(
        f"the {name} {why}, and {bundle.root} cannot draw without it.",
        "Export it too, or give edgegen generate the folder it was made of with --checkpoint.",
    )


@dataclass(frozen=True)
class PipelinePicture:
    """A picture (PIL) and how it was drawn; truncated: a tokenizer cut the prompt. notes: what is to be told of it."""

    picture: Any
    steps: int
    guidance: float
    truncated: bool
    notes: tuple[str, ...]


def run_pipeline(
    pipeline: Any,
    prompt: str,
    resolution: tuple[int, int],
    seed: int,
    steps: int | None,
    guidance: float | None,
    advance: Callable[[int, int], None],
    tokens: int = 0,
) -> PipelinePicture:
    """Draws a picture; steps and guidance that are None are the pipeline's own."""
    takes = inspect.signature(pipeline.__call__).parameters
    asked = call_arguments(pipeline, prompt, resolution, tokens)
    asked["generator"] = torch.Generator().manual_seed(seed)
    if steps is not None and "num_inference_steps" in takes:
        asked["num_inference_steps"] = steps
    own = {name: takes[name].default if name in takes else None for name in ("num_inference_steps", "guidance_scale")}
    count, scale = steps or own["num_inference_steps"], (own["guidance_scale"] or 1.0) if guidance is None else guidance
    asked |= guided(takes, guidance)
    if "callback_on_step_end" in takes:
        asked["callback_on_step_end"] = lambda pipe, step, time, values: advance(step + 1, count) or values
    cut = watch_tokenizers_(pipeline)
    picture = pipeline(**asked).images[0]
    notes = [note for part in pipeline.components.values() for note in getattr(part, "notes", ())]
    return PipelinePicture(picture, count, float(scale), bool(cut), tuple(dict.fromkeys(notes)))


def guided(takes: Mapping[str, inspect.Parameter], guidance: float | None) -> dict[str, Any]:
    """Arguments that guide a pipeline so strongly; one that has no scale of its own is guided by an empty prompt."""
    if guidance is None or "guidance_scale" not in takes:
        return {}
    if takes["guidance_scale"].default is None and "true_cfg_scale" in takes:  # as Qwen-Image is guided
        return {"true_cfg_scale": guidance, "negative_prompt": " "}
    return {"guidance_scale": guidance}
