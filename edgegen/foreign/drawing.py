"""One picture of a pipeline of diffusers: as a run to time, and how often it runs each of its networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from edgegen.bundle import Bundle
from edgegen.callbacks import ArrayFunction
from edgegen.errors import EdgegenError, InputError, shortened
from edgegen.foreign.folder import PIPELINE, import_library
from edgegen.foreign.observe import PROMPTS
from edgegen.foreign.pipeline import FOLDER, PipelinePicture, as_one, described, open_pipeline, run_pipeline
from edgegen.quiet import quietly

SEED = 0


@dataclass(frozen=True)
class Drawing:
    """How a pipeline draws a picture with its own number of steps and its own guidance."""

    steps: int
    runs: Mapping[str, int]  # of each network


def can_draw(bundle: Bundle) -> bool:
    """Whether a bundle of foreign networks has the pipeline that they are of."""
    return (bundle.root / FOLDER / PIPELINE).is_file()


def open_drawing(bundle: Bundle, backend: str) -> Callable[[], Callable[[], PipelinePicture]]:
    """What opens a pipeline on a back end and gives a drawing of one picture; diffusers is imported before."""
    import_library("diffusers")

    def opened() -> Callable[[], PipelinePicture]:
        return partial(draw_once, open_pipeline(bundle, backend), bundle)

    return opened


def draw_once(pipeline: Any, bundle: Bundle) -> PipelinePicture:
    """A picture of a prompt that is always the same."""
    tokens = described(bundle).get("max_sequence_length", 0)
    return run_pipeline(
        pipeline, PROMPTS[0], bundle.manifest.resolution, SEED, None, None, lambda done, of: None, tokens
    )


def count_runs(bundle: Bundle, backend: str) -> Drawing:
    """How often a picture runs each network: counted in the pipeline itself, whose networks give zeros.

    InputError where a network is missing that it cannot do without, where diffusers is not installed or fails.
    """
    counts: Counter[str] = Counter()

    def counting(bundle: Bundle, name: str, backend: str) -> ArrayFunction:
        outputs = as_one(bundle.programs(name, backend)).outputs

        def run(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            counts[name] += 1
            return {spec.name: np.zeros(spec.shape, np.float32) for spec in outputs}

        return run

    try:
        picture = quietly(lambda: draw_once(open_pipeline(bundle, backend, open_=counting), bundle))
    except EdgegenError:
        raise
    except Exception as error:  # whatever another project's pipeline raises
        reason = f"{type(error).__name__}: {shortened(str(error), 120)}"
        raise InputError(f"the pipeline of {bundle.root} does not draw: {reason}.") from error
    return Drawing(picture.steps, dict(counts))
