"""A four-step picture by our artifacts against PyTorch, eager and compiled, on the same cores.

usage: python benchmarks/host_pipeline/run.py [--bundle DIR] [--threads 1] [--runs 20] [--seconds 30] [--no-compile]

Text encoders, four steps without guidance and the decoder, from prompt to pixels, with the bundle's weights
everywhere; all four take turns in one process and must draw the same picture. Without --bundle the bundled model is
exported first, at width 0.375, and kept below out/benchmarks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgegen.bench import study
from edgegen.bench.measure import Settings
from edgegen.bench.records import append_study, done
from edgegen.bench.statistics import ratio_of_medians
from edgegen.bundle import MANIFEST, Bundle, load_bundle
from edgegen.charts import AMBER, BLUE, Bar, bars
from edgegen.export import export
from edgegen.generate import checkpoint_of
from edgegen.model.checkpoint import bundled_folder, load_checkpoint
from edgegen.model.sampler import flow_sigmas
from edgegen.pipeline.draw import draw
from edgegen.pipeline.networks import ArtifactNetworks, Networks
from edgegen.pipeline.torch import TorchNetworks
from edgegen.plan import make_plan
from edgegen.target import load_tier
from edgegen.verify import psnr

HERE = Path(__file__).parent
RECORD = HERE / "measurements.jsonl"
STEPS, GUIDANCE, SEED = 4, 1.0, 0
FLOOR_DB = 35.0  # of a picture
EAGER = "PyTorch eager"


def bundle_of(folder: Path | None) -> Bundle:
    """The bundle given, or one exported now."""
    if folder:
        return load_bundle(folder)
    out = study.cache("host_pipeline") / "low-android"
    if not (out / MANIFEST).exists():
        print("  exporting the bundled model", file=sys.stderr, flush=True)
        export(make_plan(load_checkpoint(bundled_folder()), load_tier("low-android"), study.BACKENDS, (), None, out))
    return load_bundle(out)


def compiled(networks: TorchNetworks) -> TorchNetworks:
    """The same networks behind torch.compile."""
    for name in ("text_encoders", "transformer", "decoder"):
        networks.__dict__[name] = torch.compile(getattr(networks, name))
    return networks


def sides(bundle: Bundle, with_compile: bool) -> dict[str, Callable[[], Networks]]:
    """What draws, by label."""
    width, checkpoint = bundle.manifest.width, checkpoint_of(bundle, None)
    found: dict[str, Callable[[], Networks]] = {
        f"{backend} artifacts": lambda backend=backend: ArtifactNetworks(bundle, backend)
        for backend in study.BACKENDS
        if backend in bundle.backends
    }
    found[EAGER] = lambda: TorchNetworks(checkpoint, width)
    if with_compile:
        found["torch.compile"] = lambda: compiled(TorchNetworks(checkpoint, width))
    return found


def picture(bundle: Bundle, networks: Networks) -> np.ndarray:
    m = bundle.manifest
    return draw(networks, m.prompts[0], m.latent_shape, flow_sigmas(STEPS, m.shift), GUIDANCE, SEED)


def measure(bundle: Bundle, settings: Settings, with_compile: bool) -> dict:
    """Milliseconds a picture of each side, and how many times faster each is than eager."""
    pictures: dict[str, np.ndarray] = {}

    def runs(label: str, make: Callable[[], Networks]) -> study.OpenRun:
        def opened() -> Callable[[], Any]:
            networks = make()
            pictures[label] = picture(bundle, networks)  # opens and compiles everything
            return lambda: picture(bundle, networks)

        return opened

    measured = study.in_turn(
        {label: runs(label, make) for label, make in sides(bundle, with_compile).items()}, settings, "executorch"
    )
    for label, drawn in pictures.items():
        if (decibels := psnr(pictures[EAGER], drawn, peak=1.0)) < FLOOR_DB:
            sys.exit(f"error: {label} drew another picture than {EAGER}: {decibels:.1f} dB.")
    results: dict[str, Any] = {"pictures": study.timings(measured), "parts": parts(bundle, settings)}
    results["times_faster_than_eager"] = {
        label: asdict(ratio_of_medians(measured[EAGER].rounds, m.rounds))
        for label, m in measured.items()
        if label != EAGER
    }
    return results


def parts(bundle: Bundle, settings: Settings) -> dict:
    """Milliseconds of text encoder, one step and decoder on each side but the compiled: where the time goes."""
    from edgegen.pipeline.networks import conditions

    found: dict[str, dict[str, dict]] = {}
    latent = np.random.default_rng(0).standard_normal(bundle.manifest.latent_shape).astype(np.float32)
    for part in ("text_encoder", "transformer", "decoder"):

        def runs(make: Callable[[], Networks], part: str = part) -> study.OpenRun:
            def opened() -> Callable[[], Any]:
                networks = make()
                ids = networks.tokenizers.encode([bundle.manifest.prompts[0]])
                condition = conditions(networks, [bundle.manifest.prompts[0]])[0][0]
                return {
                    "text_encoder": lambda: networks.encode(ids),
                    "transformer": lambda: networks.velocity(latent, 0.5, condition),
                    "decoder": lambda: networks.decode(latent),
                }[part]

            return opened

        measured = study.in_turn(
            {label: runs(make) for label, make in sides(bundle, False).items()}, settings, "executorch"
        )
        found[part] = study.timings(measured)
    return found


def table(row: dict) -> str:
    """As README.md holds it."""
    results, cells = row["results"], []
    for label, timing in results["pictures"].items():
        ratio = results["times_faster_than_eager"].get(label)
        of = [
            f"{results['parts'][part][label]['ms_p50']:.2f}" if label in results["parts"][part] else ""
            for part in results["parts"]
        ]
        cells.append(
            (
                label,
                row["settings"]["threads"],
                f"{timing['ms_p50']:.1f}",
                *of,
                f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else "1",
            )
        )
    return study.markdown(
        (
            "drawn by",
            "threads",
            "picture, ms",
            *(f"{part}, ms" for part in results["parts"]),
            "times faster than eager",
        ),
        cells,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    limits = Settings(arguments.runs, arguments.seconds, threads=arguments.threads)
    bundle = bundle_of(arguments.bundle)
    m = bundle.manifest
    settings = {
        "model": m.model,
        "tier": m.tier,
        "width": m.width,
        "resolution": list(m.resolution),
        "steps": STEPS,
        "guidance": GUIDANCE,
        "compile": not arguments.no_compile,
        **asdict(limits),
    }
    row = done(RECORD, settings) or append_study(RECORD, settings, measure(bundle, limits, not arguments.no_compile))
    print(table(row))
    entries = [
        Bar(
            label,
            t["ms_p50"],
            f"{t['ms_p50']:.1f} ms, measured",
            BLUE if "artifacts" in label else AMBER,
            (t["ms_min"], t["ms_p95"]),
        )
        for label, t in row["results"]["pictures"].items()
    ]
    (HERE / "host_pipeline.svg").write_text(bars(entries, "a four-step picture"))


if __name__ == "__main__":
    main()
