"""Our artifact against a plain export of the same network: what does the rewriting gain on CPU runtimes?

usage: python benchmarks/layout/run.py [--widths 0.375] [--grids 8,32] [--blocks 4] [--backends onnx,executorch]
                                       [--runs 20] [--seconds 30] [--clock wall] [--profile]

Plain is edgegen/model exported as it is, tokens (B, L, D), by the same exporter to the same runtime; ours is the form
of the tiers. Both get the same weights and inputs, are checked against each other and timed in turn on one thread. A
grid of 8 is 64 tokens, the bundled model's 128x128 pixels; 32 is 1,024 tokens. `--blocks 16` cuts the tokens of local
attention as the paper does, with the same weights. `--clock cpu` counts the time that the process ran, for a machine
with other work. `--profile` also lists by kind of operation where the time goes.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from edgegen.bench import study
from edgegen.bench.measure import Settings
from edgegen.bench.profile import shares
from edgegen.bench.records import append_study, done, read
from edgegen.bench.statistics import ratio_of_medians
from edgegen.charts import AMBER, BLUE, Bar, bars
from edgegen.graph.profile_onnx import profile_onnx
from edgegen.model.checkpoint import bundled_folder, load_checkpoint
from edgegen.model.dit import DiT
from edgegen.rewrite.build import transformer_component
from edgegen.rewrite.component import Component
from edgegen.verify import psnr

HERE = Path(__file__).parent
RECORD = HERE / "measurements.jsonl"
TEXT_TOKENS = 96
FLOOR_DB = 80.0


class Plain(nn.Module):
    """The trained network as it is, behind our artifact's inputs; its sinusoids come from outside in both."""

    def __init__(self, dit: DiT):
        super().__init__()
        self.dit = dit

    def forward(
        self, latent: Tensor, timestep_features: Tensor, text: Tensor, text_mask: Tensor, pooled_text: Tensor
    ) -> Tensor:
        dit, config = self.dit, self.dit.config
        grid = config.grid_of(tuple(latent.shape[-2:]))
        condition = (text[:, :, 0].transpose(1, 2), text_mask[:, :, 0, 0])  # (B, L, T), (B, L)
        embedding, modulation = dit.modulation(timestep_features[:, :, 0, 0], pooled_text[:, :, 0, 0])
        x = dit.patch(torch.nn.functional.pixel_unshuffle(latent, config.patch).flatten(2).transpose(1, 2))
        run = dit.run_stages if len(config.stages) == 3 else dit.run_middle
        out = dit.final(run(x, grid, modulation, *condition), embedding)  # (B, N, C*p*p)
        return torch.nn.functional.pixel_shuffle(out.transpose(1, 2).unflatten(-1, grid), config.patch)


def bundled(width: float, blocks: int) -> DiT:
    """The bundled transformer, its tokens cut into so many blocks, which no weight depends on."""
    trained = load_checkpoint(bundled_folder()).transformer(width)
    dit = DiT(replace(trained.config, blocks=blocks))
    dit.load_state_dict(trained.state_dict())
    return dit.eval().requires_grad_(False)


def both(width: float, grid: int, blocks: int, backend: str) -> dict[str, Component]:
    """Ours and plain, of the bundled model."""
    dit = bundled(width, blocks)
    size = (dit.config.patch * grid, dit.config.patch * grid)
    ours = transformer_component(dit, size, TEXT_TOKENS, study.FORMS[backend])
    return {"ours": ours, "plain": Component("transformer", Plain(dit).eval(), ours.inputs, ours.outputs, "plain")}


def measure(
    width: float, grid: int, blocks: int, backend: str, settings: Settings, clock: str, with_profile: bool
) -> dict:
    """Milliseconds of both, how many times faster ours is, and their agreement in dB."""
    components, folder, paths = both(width, grid, blocks, backend), study.cache("layout"), {}
    for label, component in components.items():
        print(f"  lowering {label} for {backend}, width {width}, grid {grid}", file=sys.stderr, flush=True)
        paths[label] = study.lower(component, backend, folder / f"{label}-{width}-{grid}-{blocks}.{backend}")
    made = {
        label: study.open_lowered(c, backend, paths[label])(study.feed_of(c))["velocity"]
        for label, c in components.items()
    }
    decibels = psnr(made["plain"], made["ours"])
    if decibels < FLOOR_DB:
        sys.exit(f"error: ours and plain agree to {decibels:.1f} dB, the floor is {FLOOR_DB:g} dB.")
    measured = study.in_turn(
        {label: study.runner(c, backend, paths[label]) for label, c in components.items()}, settings, backend, clock
    )
    ratio = ratio_of_medians(measured["plain"].rounds, measured["ours"].rounds)
    results = {"forms": study.timings(measured), "plain_over_ours": asdict(ratio), "agreement_db": round(decibels, 1)}
    if with_profile and backend == "onnx":
        results["ms_by_kind"] = {
            label: {
                s.name: round(s.ms, 3)
                for s in shares(profile_onnx(paths[label], study.feed_of(component), settings.threads, 10), "kind")[:12]
            }
            for label, component in components.items()
        }
    return results


def table(rows: list[dict]) -> str:
    """As README.md holds it."""
    cells = []
    for row in rows:
        s, results = row["settings"], row["results"]
        ms, ratio = {k: v["ms_p50"] for k, v in results["forms"].items()}, results["plain_over_ours"]
        cells.append(
            (
                s["backend"],
                s["width"],
                s["grid"] ** 2,
                s["blocks"],
                f"{ms['plain']:.2f}",
                f"{ms['ours']:.2f}",
                f"{ratio['value']:.2f}",
                f"{ratio['low']:.2f} to {ratio['high']:.2f}",
                results["agreement_db"],
            )
        )
    return study.markdown(
        (
            "runtime",
            "width",
            "tokens",
            "blocks",
            "plain, ms",
            "ours, ms",
            "ours is times faster",
            "95 % interval",
            "agreement, dB",
        ),
        cells,
    )


def kinds(row: dict) -> str:
    """Where the time goes, by kind of operation."""
    found = row["results"].get("ms_by_kind", {})
    names = dict.fromkeys(name for side in found.values() for name in side)
    return study.markdown(
        ("operation", *(f"{label}, ms" for label in found)),
        [(name, *(side.get(name, "") for side in found.values())) for name in names],
    )


def draw_plot() -> None:
    """layout.svg from the last row of each setting."""
    keys = ("backend", "width", "grid", "blocks")
    last = {tuple(row["settings"][key] for key in keys): row for row in read(RECORD)}
    entries = []
    for (backend, width, grid, blocks), row in sorted(last.items()):
        for label, timing in row["results"]["forms"].items():
            entries.append(
                Bar(
                    f"{label}, {backend}, {width}, {grid**2} tokens, {blocks} blocks",
                    timing["ms_p50"],
                    f"{timing['ms_p50']:.2f} ms, measured",
                    BLUE if label == "ours" else AMBER,
                    (timing["ms_min"], timing["ms_p95"]),
                )
            )
    (HERE / "layout.svg").write_text(bars(entries, "plain export against ours"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="0.375")
    parser.add_argument("--grids", default="8,32")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--backends", default="onnx,executorch")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--clock", choices=study.CLOCKS, default="wall")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    limits, rows = Settings(arguments.runs, arguments.seconds), []
    for backend in arguments.backends.split(","):
        for width in map(float, arguments.widths.split(",")):
            for grid in map(int, arguments.grids.split(",")):
                settings = {
                    "backend": backend,
                    "width": width,
                    "grid": grid,
                    "blocks": arguments.blocks,
                    "text_tokens": TEXT_TOKENS,
                    "clock": arguments.clock,
                    "profile": arguments.profile,
                    **asdict(limits),
                }
                row = done(RECORD, settings) or append_study(
                    RECORD,
                    settings,
                    measure(width, grid, arguments.blocks, backend, limits, arguments.clock, arguments.profile),
                )
                rows.append(row)
                print(table([row]), flush=True)
                if row["results"].get("ms_by_kind"):
                    print(kinds(row), flush=True)
    print("\n" + table(rows))
    draw_plot()


if __name__ == "__main__":
    main()
