"""What a pipeline of diffusers gives each of its networks: run on a few prompts as far as its transformer.

No weights are needed: a text encoder is run for its shapes alone, on PyTorch's meta device, and gives zeros.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from edgegen.errors import EdgegenError, InputError, shortened
from edgegen.foreign.folder import LIBRARIES, PIPELINE, code_error, import_library, read_object
from edgegen.foreign.prompting import told_tokenizers, watch_texts_
from edgegen.foreign.reads import Path as Reads
from edgegen.foreign.reads import Reading
from edgegen.foreign.stand_in import StandIn, bare
from edgegen.foreign.text_layout import Marks, cleared, seen_text, told_text
from edgegen.quiet import quietly

PROMPTS = ("a red fox in the snow", "tea", "An old lighthouse on a cliff at night, oil on canvas, with a full moon")
Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Seen:
    """A network's arguments for each prompt, for one picture, and the names of what is read of its result, by path."""

    calls: tuple[Arguments, ...]
    reads: Mapping[Reads, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Observed:
    """What was seen of a pipeline: its networks, and for the manifest tokenizers, text and sampling."""

    networks: Mapping[str, Seen] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)


class Reached(Exception):  # noqa: N818  (the end that is wanted)
    """The transformer was called."""


class Watched(StandIn):
    """Stands for a network and keeps what it is given; `make` gives its result."""

    def __init__(self, kind: Any, config: Any, make: Callable[[Arguments], Any]):
        super().__init__(kind, config)
        self.make = make
        self.signature = inspect.signature(kind.forward)
        self.mark: Callable[[Arguments, Any], Any] = lambda given, result: result
        self.calls: list[Arguments] = []
        self.reads: dict[Reads, str] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = bound(self.signature, self, args, kwargs)
        self.calls.append(given)
        return Reading(self.mark(given, self.make(given)), self.reads)


def bound(signature: inspect.Signature, owner: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Arguments by name, without those that are None."""
    given = dict(signature.bind(owner, *args, **kwargs).arguments)
    given |= given.pop("kwargs", {})
    return {name: value for name, value in given.items() if name != "self" and value is not None}


def assemble(folder: Path, network: Callable[[str, Any, Path], Any]) -> Any:
    """The pipeline of a folder; `network(name, class, folder)` stands for each of its networks."""
    index, diffusers = read_object(folder / PIPELINE), import_library("diffusers")
    kind = getattr(diffusers, str(index.get("_class_name")), None)
    if kind is None:
        raise InputError(f"diffusers {diffusers.__version__} has no {index.get('_class_name')}.", "Upgrade diffusers.")
    parts, settings = {}, {}
    for name, entry in index.items():
        if isinstance(entry, list) and not name.startswith("_"):
            parts[name] = part_of(name, entry, folder / name, network)
        elif not name.startswith("_"):
            settings[name] = entry
    takes = inspect.signature(kind.__init__).parameters
    made = kind(**{n: v for n, v in (parts | settings).items() if n in takes})
    made.set_progress_bar_config(disable=True)
    return made


def part_of(name: str, entry: Any, folder: Path, network: Callable[[str, Any, Path], Any]) -> Any:
    """A part of a pipeline: a network, or what its data makes."""
    library, class_name = entry
    if library is None:
        return None
    if library not in LIBRARIES:
        raise code_error(f"{PIPELINE} takes {name} from {library!r}")
    kind = getattr(import_library(library), class_name, None)
    if kind is None:
        raise InputError(f"{library} has no {class_name}.", f"Upgrade {library}.")
    if (folder / "config.json").is_file():
        return network(name, kind, folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    try:
        return quietly(lambda: kind.from_pretrained(str(folder), local_files_only=True))
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, ImportError) as error:
        raise InputError(f"{folder} cannot be loaded as {class_name}: {shortened(str(error), 160)}") from error


def config_of(kind: Any, folder: Path) -> Any:
    """A network's configuration as its pipeline reads it."""
    if not hasattr(kind, "load_config"):
        return kind.config_class.from_pretrained(str(folder))
    from diffusers.configuration_utils import FrozenDict

    return FrozenDict(kind.load_config(str(folder)))


def observe(folder: Path, resolution: tuple[int, int], tokens: int = 0) -> Observed:
    """What the text encoders and the transformer of a folder are given; tokens: max_sequence_length, its own if 0."""
    watched: dict[str, Watched] = {}

    def network(name: str, kind: Any, at: Path) -> Watched:
        watched[name] = Watched(kind, config_of(kind, at), maker(kind, at))
        return watched[name]

    pipeline = assemble(folder, network)
    given, texts = watch_texts_(pipeline), []
    seen: dict[str, list[Arguments]] = {}
    for prompt in PROMPTS:
        marks = marks_of(watched)
        reach(pipeline, prompt, resolution, tokens)
        called = {name: part.calls for name, part in watched.items() if part.calls}
        for name, calls in called.items():
            seen.setdefault(name, []).append(cleared(first_row(max(calls, key=tokens_of))))
        last = next(calls[-1] for name, calls in called.items() if hasattr(watched[name].kind, "load_config"))
        texts.append(seen_text(marks, {name: part.reads for name, part in watched.items()}, last))
    told = {
        "sampling": told_sampling(pipeline),
        "tokenizers": told_tokenizers(pipeline, given, PROMPTS),
        "text": told_text(texts),
    }
    return Observed({name: Seen(tuple(calls), dict(watched[name].reads)) for name, calls in seen.items()}, told)


def marks_of(watched: Mapping[str, Watched]) -> Marks:
    """Forgets the calls of the prompt before, and marks the results for the next."""
    marks = Marks()
    for name, part in watched.items():
        part.calls.clear()
        part.mark = partial(marks.mark, name)
    return marks


def told_sampling(pipeline: Any) -> dict[str, Any]:
    """A pipeline's own steps and guidance, and what its scheduler counts for them."""
    takes = inspect.signature(pipeline.__call__).parameters
    own = {name: parameter.default for name, parameter in takes.items() if isinstance(parameter.default, int | float)}
    told = {"steps": own.get("num_inference_steps"), "guidance_scale": own.get("guidance_scale") or 1.0}
    scheduler = getattr(pipeline, "scheduler", None)
    told["init_noise_sigma"] = float(getattr(scheduler, "init_noise_sigma", 1.0))
    for name in ("timesteps", "sigmas"):
        values = getattr(scheduler, name, None)
        counted = isinstance(values, Tensor) and values.ndim == 1 and bool(values.isfinite().all())
        told[name] = values.tolist() if counted else []
    return {name: value for name, value in told.items() if value}


def reach(pipeline: Any, prompt: str, resolution: tuple[int, int], tokens: int) -> None:
    """Runs a pipeline until its transformer is called."""
    asked = call_arguments(pipeline, prompt, resolution, tokens)
    try:
        with torch.no_grad():
            quietly(lambda: pipeline(**asked))
    except Reached:
        return
    except EdgegenError:
        raise
    except Exception as error:  # whatever another project's pipeline raises
        raise InputError(
            f"{type(pipeline).__name__} fails before its transformer: {type(error).__name__}: "
            f"{shortened(str(error), 160)}",
            "Check --resolution and --tokens, or export networks alone with --components.",
        ) from error
    raise InputError(f"{type(pipeline).__name__} does not call its transformer.", "Export with --components.")


def call_arguments(pipeline: Any, prompt: str, resolution: tuple[int, int], tokens: int) -> dict[str, Any]:
    """What a pipeline is called with for one picture of exactly this size."""
    takes = inspect.signature(pipeline.__call__).parameters
    width, height = resolution
    wanted = {"width": width, "height": height, "max_sequence_length": tokens}
    asked = {"prompt": prompt} | {name: value for name, value in wanted.items() if value and name in takes}
    return asked | ({"use_resolution_binning": False} if "use_resolution_binning" in takes else {})


def maker(kind: Any, folder: Path) -> Callable[[Arguments], Any]:
    """Results of a network's shape: a text encoder's zeros; a transformer ends the run."""
    if hasattr(kind, "load_config"):
        return ended
    made: list[Any] = []

    def make(given: Arguments) -> Any:
        if not made:
            made.append(bare(kind, config_of(kind, folder)).eval())
        plain = {n: v for n, v in given.items() if not isinstance(v, Tensor) or n == "input_ids"}
        plain.pop("use_cache", None)  # without one, masks are made by reading positions, which have no values here
        result = made[0](**{n: v.to("meta") if isinstance(v, Tensor) else v for n, v in plain.items()})
        return pytree.tree_map(lambda leaf: torch.zeros(leaf.shape) if isinstance(leaf, Tensor) else leaf, result)

    return make


def tokens_of(given: Arguments) -> int:
    """Text tokens of a call; a pipeline may give its negative prompt fewer."""
    ids = given.get("input_ids")
    return ids.shape[1] if isinstance(ids, Tensor) else 0


def ended(given: Arguments) -> Any:
    raise Reached


def first_row(given: Arguments) -> Arguments:
    """Arguments for one picture of those for a batch."""
    leaves = [leaf for leaf in pytree.tree_leaves(given) if isinstance(leaf, Tensor) and leaf.ndim]
    batch = leaves[0].shape[0] if leaves else 1
    cut = lambda x: x[:1] if isinstance(x, Tensor) and x.ndim and x.shape[0] == batch else x  # noqa: E731
    return pytree.tree_map(cut, dict(given))
