"""A pipeline of diffusers whose networks are a bundle's artifacts: its own sampler, its own tokenizers, our programs.

A bundle of a pipeline's folder holds `pipeline/`: model_index.json, schedulers and tokenizers, all of it data.
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgegen.bundle import Artifact, Bundle
from edgegen.callbacks import ArrayFunction
from edgegen.capture.specialize import leaf_names
from edgegen.errors import InputError
from edgegen.foreign.folder import LIBRARIES, PIPELINE, code_error, import_library, read_object
from edgegen.manifest import ForeignManifest
from edgegen.pipeline.artifact import open_artifact

FOLDER = "pipeline"
DATA = (".json", ".txt", ".model")  # what a tokenizer or scheduler is made of


class Result(tuple):
    """What a network gives: by place and by name, as diffusers and transformers read it."""

    names: tuple[str, ...]

    def __new__(cls, names: Sequence[str], values: Sequence[Tensor]) -> Result:
        made = super().__new__(cls, values)
        made.names = tuple(names)
        return made

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[self.names.index(name)]
        except ValueError:
            raise AttributeError(name) from None


class ArtifactModule(nn.Module):
    """Stands in a pipeline for one of its networks, and runs an artifact of batch 1 for every picture of a batch."""

    def __init__(self, kind: type, config: Any, entry: Mapping[str, Any], artifact: Artifact, run: ArrayFunction):
        super().__init__()
        self.config, self.entry, self.artifact, self.run = config, entry, artifact, run
        self.signature = inspect.signature(kind.forward if not hasattr(kind, "decode") else kind.decode)
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def forward(self, *args: Any, **kwargs: Any) -> Result:
        given = self.signature.bind(self, *args, **kwargs).arguments
        given = {name: value for name, value in given.items() if name != "self" and value is not None}
        if set(given) >= {"kwargs"}:
            given |= given.pop("kwargs")
        leaves = {name: leaf for name, leaf in leaf_names(given) if isinstance(leaf, Tensor)}
        leaves |= {"latent": leaves["z"]} if "z" in leaves else {}
        batch = max((leaf.shape[0] for leaf in leaves.values() if leaf.ndim), default=1)
        rows = [self.one({n: at(leaf, i, batch) for n, leaf in leaves.items()}) for i in range(batch)]
        names = [spec.name for spec in self.artifact.outputs]
        return Result(names, [torch.cat([row[name] for row in rows]) for name in names])

    def decode(self, z: Tensor, return_dict: bool = True, generator: Any = None) -> Result:
        """For an autoencoder."""
        return self.forward(z)

    def one(self, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One picture's outputs."""
        made = self.run({spec.name: self.fed(spec.name, leaves).reshape(spec.shape) for spec in self.artifact.inputs})
        return {name: torch.from_numpy(np.array(value)) for name, value in made.items()}

    def fed(self, name: str, leaves: Mapping[str, Tensor]) -> np.ndarray:
        """An input of the artifact; sinusoids are computed of what they come from."""
        told = next((s for s in self.entry["sinusoids"] if s["name"] == name), None)
        if told is None:
            if name not in leaves:
                raise InputError(f"the pipeline gives the {self.artifact.name} no {name}.", "Export it again.")
            return leaves[name].detach().float().numpy()
        angles = leaves[told["source"]].detach().double().reshape(-1, 1).numpy() * np.array(told["frequencies"])
        waves = {"cos": np.cos(angles), "sin": np.sin(angles)}
        return np.concatenate([waves[key] for key in told["order"].split(",")], 1).astype(np.float32)


def at(leaf: Tensor, index: int, batch: int) -> Tensor:
    """One picture's part of a tensor that has as many as the batch."""
    return leaf[index : index + 1] if leaf.ndim and leaf.shape[0] == batch else leaf


def copy_data(folder: Path, root: Path) -> None:
    """Copies what a pipeline needs beside its networks into a bundle: data only."""
    if not (folder / PIPELINE).is_file():
        return
    (root / FOLDER).mkdir()
    shutil.copyfile(folder / PIPELINE, root / FOLDER / PIPELINE)
    for name, entry in read_object(folder / PIPELINE).items():
        source = folder / name
        if name.startswith("_") or not isinstance(entry, list) or not source.is_dir():
            continue
        whole = not (source / "config.json").is_file()
        (root / FOLDER / name).mkdir()
        for path in sorted(source.iterdir()):
            if path.name == "config.json" or (whole and path.suffix in DATA):
                shutil.copyfile(path, root / FOLDER / name / path.name)


def open_pipeline(bundle: Bundle, backend: str) -> Any:
    """The pipeline of a bundle, its networks run by a back end; what the bundle does not hold is None."""
    folder = bundle.root / FOLDER
    if not (folder / PIPELINE).is_file():
        raise InputError(f"{bundle.root} holds networks and no pipeline.", "Export the folder of a whole pipeline.")
    index, networks = read_object(folder / PIPELINE), networks_of(bundle)
    diffusers = import_library("diffusers")
    kind = getattr(diffusers, str(index.get("_class_name")), None)
    if kind is None:
        raise InputError(f"diffusers {diffusers.__version__} has no {index.get('_class_name')}.", "Upgrade diffusers.")
    parts = {
        n: part_of(bundle, networks, backend, n, e)
        for n, e in index.items()
        if isinstance(e, list) and not n.startswith("_")
    }
    settings = {n: v for n, v in index.items() if not n.startswith("_") and not isinstance(v, list)}
    takes = inspect.signature(kind.__init__).parameters
    return kind(**{n: v for n, v in (parts | settings).items() if n in takes})


def networks_of(bundle: Bundle) -> dict[str, Any]:
    """What the manifest says of each network."""
    assert isinstance(bundle.manifest, ForeignManifest)
    return bundle.manifest.pipeline["networks"]


def part_of(bundle: Bundle, networks: Mapping[str, Any], backend: str, name: str, entry: Sequence[Any]) -> Any:
    """One part of a pipeline: an artifact, or what its data makes."""
    library, class_name = entry
    if library is None:
        return None
    if library not in LIBRARIES:
        raise code_error(f"model_index.json takes {name} from {library!r}")
    kind = getattr(import_library(library), class_name, None)
    if kind is None:
        raise InputError(f"{library} has no {class_name}.", f"Upgrade {library}.")
    folder = bundle.root / FOLDER / name
    if (folder / "config.json").is_file() and name in networks:
        artifact = bundle.artifact(name, backend)
        config = (
            kind.load_config(str(folder))
            if hasattr(kind, "load_config")
            else kind.config_class.from_pretrained(str(folder))
        )
        if isinstance(config, dict):
            from diffusers.configuration_utils import FrozenDict

            config = FrozenDict(config)
        return ArtifactModule(kind, config, networks[name], artifact, open_artifact(bundle, artifact))
    return (
        kind.from_pretrained(str(folder), local_files_only=True) if folder.is_dir() and any(folder.iterdir()) else None
    )


def run_pipeline(
    pipeline: Any,
    prompt: str,
    resolution: tuple[int, int],
    seed: int,
    steps: int | None,
    guidance: float | None,
    advance: Callable[[int, int], None],
) -> tuple[Any, int, float]:
    """A picture (PIL), the steps and the guidance that drew it; what is None is the pipeline's own."""
    takes = inspect.signature(pipeline.__call__).parameters
    asked: dict[str, Any] = {"prompt": prompt, "generator": torch.Generator().manual_seed(seed)}
    width, height = resolution
    chosen = {"width": width, "height": height, "num_inference_steps": steps, "guidance_scale": guidance}
    asked |= {name: value for name, value in chosen.items() if value and name in takes}
    own = {name: takes[name].default if name in takes else 0 for name in ("num_inference_steps", "guidance_scale")}
    count, scale = steps or own["num_inference_steps"], own["guidance_scale"] if guidance is None else guidance
    if "use_resolution_binning" in takes:
        asked["use_resolution_binning"] = False
    if "callback_on_step_end" in takes:
        asked["callback_on_step_end"] = lambda pipe, step, time, values: advance(step + 1, count) or values
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(**asked).images[0], count, float(scale)
