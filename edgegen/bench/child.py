"""The process that holds one artifact: opens, runs and profiles it when told, one JSON line for each.

Alone in its process an artifact's memory can be told from others', and a runtime that crashes takes nothing with it.
`python -m edgegen.bench.child` reads commands on stdin and answers on stdout:

  {"do": "open", "bundle", "backend", "component", "threads"} -> {"load_ms", "base_bytes", "loaded_bytes"}
  {"do": "run", "count"}                                      -> {"ms": [...], "peak_bytes"}
  {"do": "profile", "count"}                                  -> {"operations": [...]}   see profile.py
  anything that fails                                         -> {"error", "remedy", "exit_code"}

It ends with its parent, however that ends.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import IO, Any

import numpy as np

from edgegen.backends.registry import find_backend
from edgegen.bench.parts import is_foreign, is_picture
from edgegen.bundle import Artifact, Bundle, load_bundle
from edgegen.chain import signature
from edgegen.errors import EdgegenError, InputError
from edgegen.meter import peak_bytes, reset_peak
from edgegen.model.blocks import timestep_features
from edgegen.pipeline.artifact import open_network
from edgegen.pipeline.cases import read_cases
from edgegen.pipeline.draw import draw
from edgegen.pipeline.networks import ArtifactNetworks, id_feed
from edgegen.process import end_with_parent_

SEED = 0


def inputs_of(bundle: Bundle, programs: Sequence[Artifact]) -> dict[str, np.ndarray]:
    """What programs that run in order are timed with: a real prompt's tokens, every text token real, seeded noise
    otherwise; for networks of other projects their first recorded case.
    """
    import torch

    from edgegen.model.checkpoint import make_tokenizers

    if is_foreign(bundle):
        return inputs_of_case(bundle, programs)
    if programs[0].name == "text_encoder":
        tokenizers = make_tokenizers(bundle.tokenizer_files())
        return id_feed(tokenizers.encode([bundle.manifest.prompts[0]]))
    rng = np.random.default_rng(SEED)
    feed = {spec.name: rng.standard_normal(spec.shape).astype(spec.dtype) for spec in signature(programs)[0]}
    if "timestep_features" in feed:
        size = bundle.manifest.timestep_features["size"]
        feed["timestep_features"] = timestep_features(torch.tensor([0.5]), size).numpy().reshape(1, size, 1, 1)
    if "text_mask" in feed:
        feed["text_mask"] = np.ones_like(feed["text_mask"])
    return feed


def inputs_of_case(bundle: Bundle, programs: Sequence[Artifact]) -> dict[str, np.ndarray]:
    """The inputs of a recorded case; a chunk alone takes seeded noise for what other chunks give."""
    rng, (given, _) = np.random.default_rng(SEED), read_cases(bundle, programs[0].network)[0]
    specs = signature(programs)[0]
    feed = {spec.name: given[spec.name] for spec in specs if spec.name in given}
    noise = {spec.name: rng.standard_normal(spec.shape) for spec in specs if spec.name not in given}
    return {spec.name: (feed | noise)[spec.name].astype(spec.dtype) for spec in specs}


def set_threads(backend: str, threads: int) -> None:
    """Makes a runtime use so many threads; before anything is opened."""
    import torch

    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # runtime/onnx.py takes it from here
    find_backend(backend).set_threads(threads)


def make_open(bundle: Bundle, backend: str, component: str) -> Callable[[], Callable[[], Any]]:
    """What opens a component, or all it takes to draw, and gives one run of it; its inputs are there before."""
    if is_picture(bundle, component):
        if is_foreign(bundle):
            from edgegen.foreign.drawing import open_drawing

            return open_drawing(bundle, backend)
        return lambda: drawing(bundle, backend)
    feed = inputs_of(bundle, bundle.programs(component, backend))

    def opened() -> Callable[[], Any]:
        run = open_network(bundle, component, backend, native=True)
        return lambda: run(feed)

    return opened


def drawing(bundle: Bundle, backend: str) -> Callable[[], Any]:
    """The whole picture of our own networks: text, every step, decoder."""
    networks, m = ArtifactNetworks(bundle, backend, native=True), bundle.manifest
    for name in ("_text_encoder", "_transformer", "_decoder"):
        getattr(networks, name)  # opened now, so that a picture's time is of drawing alone
    return lambda: draw(networks, m.prompts[0], m.latent_shape, m.sigmas, m.guidance, SEED)


def timed(run: Callable[[], Any], count: int, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Milliseconds of each of `count` runs by a clock that gives seconds."""
    runs = []
    for _ in range(count):
        start = clock()
        run()
        runs.append(1e3 * (clock() - start))
    return runs


class Server:
    """Answers commands about the one artifact it opened."""

    def __init__(self) -> None:
        self.run: Callable[[], Any] | None = None

    def open(self, bundle: str, backend: str, component: str, threads: int) -> dict:
        find_backend(backend).warm()
        set_threads(backend, threads)
        found = load_bundle(bundle, check=False)  # the parent has checked the digests
        opened = make_open(found, backend, component)
        reset_peak()
        base = peak_bytes()
        start = time.perf_counter()
        self.run = opened()
        load = time.perf_counter() - start
        return {"load_ms": 1e3 * load, "base_bytes": base, "loaded_bytes": peak_bytes()}

    def time(self, count: int) -> dict:
        assert self.run is not None
        return {"ms": timed(self.run, count), "peak_bytes": peak_bytes()}

    def profile(self, bundle: str, backend: str, component: str, threads: int, count: int) -> dict:
        from edgegen.bench.profile import profile_artifact

        set_threads(backend, threads)
        found = load_bundle(bundle, check=False)
        artifact, *others = found.programs(component, backend)
        if others:
            raise InputError(f"a {component} in chunks has no profile.", "Profile one that is in one program.")
        operations = profile_artifact(found, artifact, inputs_of(found, [artifact]), threads, count)
        return {"operations": [asdict(operation) for operation in operations]}

    def answer(self, request: dict) -> dict:
        known: dict[str, Callable[..., dict]] = {"open": self.open, "run": self.time, "profile": self.profile}
        return known[request.pop("do")](**request)


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Answers until the requests end; an error is an answer too."""
    server = Server()
    for line in requests:
        try:
            answer = server.answer(json.loads(line))
        except EdgegenError as error:
            answer = {"error": error.message, "remedy": error.remedy, "exit_code": error.exit_code}
        except Exception as error:
            told = (str(error).splitlines() or [""])[0][:300]
            answer = {"error": f"{type(error).__name__}: {told}.", "remedy": "", "exit_code": 1}
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    """Keeps stdout for answers: whatever libraries print goes to stderr."""
    end_with_parent_()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
