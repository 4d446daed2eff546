"""Steps A to D of the paper's ladder on CPU runtimes: does the design gain what its multiply-adds promise?

usage: python benchmarks/ladder/run.py [--tokens 1024,4096] [--backends onnx,executorch] [--steps A,B,C,D]
                                       [--hidden 256] [--layers 8] [--runs 5] [--seconds 60] [--clock wall]
                                       [--branches]

Lowers the steps at one width, checks each against PyTorch, times them in turn on one thread and appends a row per
runtime and number of tokens to measurements.jsonl; rows that are there for this commit are not measured again, and
what was lowered is kept below out/benchmarks. `--clock cpu` counts the time that the process ran, for a machine with
other work. `--branches` times the two branches of ASSA alone instead, with the blocks of BNA scaled with the grid and
not.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from edgegen.bench import study
from edgegen.bench.count_module import program_of_component
from edgegen.bench.measure import Settings
from edgegen.bench.predict import predict, readable
from edgegen.bench.records import append_study, done, read
from edgegen.bench.statistics import ratio_of_medians
from edgegen.charts import lines
from edgegen.graph.operations import Totals
from edgegen.model.attention import SparseSelfAttention
from edgegen.model.config import DiTConfig, ladder
from edgegen.model.dit import DiT, init_
from edgegen.rewrite.batched import BatchedSparseSelfAttention
from edgegen.rewrite.build import transformer_component
from edgegen.rewrite.component import Component, Form, TensorSpec
from edgegen.target import load_device
from edgegen.verify import psnr

HERE = Path(__file__).parent
RECORD = HERE / "measurements.jsonl"
STEPS = ("A", "B", "C", "D")
PHONE = "iphone16pm"
PAPER_MS = {"A": 2000, "B": 550, "C": 293, "D": 360}  # arXiv 2601.08303, table 1: iPhone 16 Pro Max, 4096 tokens
TEXT_TOKENS = 64
FULL_SCORES = 4096  # tokens above which whole score matrices do not fit: A and B are left out
FLOOR_DB = 80.0


def base(hidden: int, layers: int) -> DiTConfig:
    """Step D at a small size: layers in the paper's proportions 8/10/10."""
    down = round(layers * 8 / 28)
    up = round(layers * 10 / 28)
    return DiTConfig(
        hidden=hidden,
        head_dim=32,
        depths=(down, layers - down - up, up),
        text_dim=256,
        in_channels=8,
        time_features=64,
        widths=(1.0,),
    )


def side(tokens: int) -> int:
    """Rows of a square grid."""
    rows = round(tokens**0.5)
    if rows * rows != tokens:
        sys.exit(f"error: {tokens} tokens are no square grid. Give 1024, 4096 or 16384.")
    return rows


def component_of(config: DiTConfig, tokens: int, form: Form) -> Component:
    """The transformer of a step with random weights, zero-initialized parts included."""
    grid = side(tokens)
    config = replace(config, grid=(grid, grid))
    dit = init_(DiT(config), 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return transformer_component(dit.eval(), (grid * config.patch, grid * config.patch), TEXT_TOKENS, form)


def check(component: Component, backend: str, path: Path) -> float:
    """PSNR in dB of an artifact against its module in PyTorch."""
    feed = study.feed_of(component)
    with torch.no_grad():
        expected = component.module(*(torch.from_numpy(value) for value in feed.values())).numpy()
    decibels = psnr(expected, study.open_lowered(component, backend, path)(feed)["velocity"])
    if decibels < FLOOR_DB:
        sys.exit(f"error: {path.name} reached {decibels:.1f} dB, its floor is {FLOOR_DB:g} dB.")
    return round(decibels, 1)


def measure_steps(
    steps: tuple[str, ...], config: DiTConfig, tokens: int, backend: str, settings: Settings, clock: str
) -> dict:
    """Milliseconds, multiply-adds and score elements of each step, and every gain over A with what was promised."""
    components = {step: component_of(ladder(step, config), tokens, study.FORMS[backend]) for step in steps}
    folder, paths, checked = study.cache("ladder"), {}, {}
    for step, component in components.items():
        print(f"  lowering {step} for {backend} at {tokens} tokens", file=sys.stderr, flush=True)
        name = f"{step}-{config.hidden}x{sum(config.depths)}-{tokens}.{backend}"
        paths[step] = study.lower(component, backend, folder / name)
        checked[step] = check(component, backend, paths[step])
    measured = study.in_turn(
        {s: study.runner(c, backend, paths[s]) for s, c in components.items()}, settings, backend, clock
    )
    totals = {step: program_of_component(component).totals for step, component in components.items()}
    results = {
        "steps": {
            step: timing
            | {
                "gmacs": round(totals[step].macs / 1e9, 3),
                "score_elements": totals[step].score_elements,
                "psnr_db": checked[step],
            }
            for step, timing in study.timings(measured).items()
        }
    }
    first = steps[0]
    results["gain"] = {}
    for step in steps[1:]:
        ratio = ratio_of_medians(measured[first].rounds, measured[step].rounds)
        promised = totals[first].macs / totals[step].macs
        results["gain"][f"{first}/{step}"] = {key: round(value, 4) for key, value in asdict(ratio).items()} | {
            "promised": round(promised, 4),
            "of_promise": round(ratio.value / promised, 4),
        }
    return results


class Local(nn.Module):
    """BNA alone: q (1, S, H*E), k and v (1, S, G*E) -> (1, S, H*E)."""

    def __init__(self, layer: BatchedSparseSelfAttention):
        super().__init__()
        self.layer = layer

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.layer.attend_blocks(q, k, v)


class Global(nn.Module):
    """The compressed branch alone, keys and values before compression: the shapes of Local."""

    def __init__(self, layer: BatchedSparseSelfAttention):
        super().__init__()
        self.layer = layer

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        layer = self.layer
        k_coarse, v_coarse = (
            layer.compress(conv, x.flatten(0, 1)).reshape(1, -1, x.shape[2])  # (1, S/4, G*E)
            for conv, x in ((layer.compress_k, k), (layer.compress_v, v))
        )
        return layer.attend(q, k_coarse, v_coarse, layer.config.head_dim)


def branch(config: DiTConfig, tokens: int, blocks: int, kind: type[nn.Module]) -> Component:
    """One branch of one ASSA layer."""
    grid = (side(tokens), side(tokens))
    config = replace(config, blocks=blocks, grid=grid)
    layer = BatchedSparseSelfAttention(SparseSelfAttention(config), grid, study.FORMS["onnx"])
    shapes = {"q": config.heads, "k": config.kv_heads, "v": config.kv_heads}
    inputs = tuple(TensorSpec(n, (1, tokens, heads * config.head_dim)) for n, heads in shapes.items())
    return Component(
        "transformer",
        kind(layer).eval().requires_grad_(False),
        inputs,
        (TensorSpec("velocity", (1, tokens, config.hidden)),),
        "batched",
    )


def measure_branches(config: DiTConfig, tokens: int, backend: str, settings: Settings, clock: str) -> dict:
    """BNA with 16 blocks, with blocks of 256 tokens, and the compressed branch: milliseconds and scores."""
    kinds = {
        "BNA, 16 blocks": (16, Local),
        "BNA, blocks of 256 tokens": (tokens // 256, Local),
        "compressed": (16, Global),
    }
    components = {label: branch(config, tokens, *kind) for label, kind in kinds.items()}
    folder = study.cache("ladder")
    paths = {
        label: study.lower(c, backend, folder / f"{label.replace(' ', '_')}-{config.hidden}-{tokens}.{backend}")
        for label, c in components.items()
    }
    measured = study.in_turn(
        {label: study.runner(c, backend, paths[label]) for label, c in components.items()}, settings, backend, clock
    )
    return {
        "branches": {
            label: timing | {"score_elements": program_of_component(components[label]).totals.score_elements}
            for label, timing in study.timings(measured).items()
        }
    }


def phone(step: str) -> str:
    """The prediction for the paper's phone and size, from the operations the predictor study counted."""
    counted = json.loads((HERE.parent / "predictor" / "operations.json").read_text())
    found = predict(Totals.from_dict(counted[f"ladder-{step}"]).compressed(16), load_device(PHONE), "coreml")
    return f"predicted {readable(found.milliseconds)} ({readable(found.low)} to {readable(found.high)})"


def step_table(rows: list[dict]) -> str:
    """The ladder as README.md holds it; the last two columns are of the paper's width at 4,096 tokens."""
    cells = []
    for row in rows:
        s, results = row["settings"], row["results"]
        for step, timing in results["steps"].items():
            gain = next((g for pair, g in results["gain"].items() if pair.endswith(f"/{step}")), None)
            told = (
                ("", "", "")
                if gain is None
                else (
                    f"{gain['value']:.2f} ({gain['low']:.2f} to {gain['high']:.2f})",
                    f"{gain['promised']:.2f}",
                    f"{gain['of_promise']:.2f}",
                )
            )
            cells.append(
                (
                    s["backend"],
                    s["tokens"],
                    step,
                    f"{timing['ms_p50']:.1f}",
                    f"{timing['gmacs']:.2f}",
                    f"{timing['score_elements'] / 1e6:.0f}",
                    *told,
                    PAPER_MS[step],
                    phone(step),
                )
            )
    return study.markdown(
        (
            "runtime",
            "tokens",
            "step",
            "ms",
            "G multiply-adds",
            "M scores",
            "times faster than first",
            "promised",
            "of promise",
            "paper, iPhone 16 Pro Max, ms",
            "the same predicted",
        ),
        cells,
    )


def branch_table(rows: list[dict]) -> str:
    cells = [
        (
            row["settings"]["backend"],
            row["settings"]["tokens"],
            label,
            f"{timing['ms_p50']:.2f}",
            f"{timing['score_elements'] / 1e6:.1f}",
        )
        for row in rows
        for label, timing in row["results"]["branches"].items()
    ]
    return study.markdown(("runtime", "tokens", "branch", "ms", "M scores"), cells)


def draw_plots(hidden: int, layers: int) -> None:
    """ladder.svg and branches.svg from the last row of each setting."""
    last = {
        str({k: v for k, v in row["settings"].items() if k != "clock"}): row
        for row in read(RECORD)
        if (row["settings"]["hidden"], row["settings"]["layers"]) == (hidden, layers)
    }
    for key, name, title in (("steps", "ladder", "one forward pass"), ("branches", "branches", "one ASSA layer")):
        series: dict[str, list[tuple[float, float]]] = {}
        for row in last.values():
            for label, timing in row["results"].get(key, {}).items():
                series.setdefault(f"{label}, {row['settings']['backend']}", []).append(
                    (row["settings"]["tokens"], timing["ms_p50"])
                )
        if series:
            title = f"{title}, hidden {hidden}, one thread, measured"
            (HERE / f"{name}.svg").write_text(lines(dict(sorted(series.items())), title, "tokens", "ms"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="1024,4096")
    parser.add_argument("--backends", default="onnx,executorch")
    parser.add_argument("--steps", default="A,B,C,D")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clock", choices=study.CLOCKS, default="wall")
    parser.add_argument("--branches", action="store_true")
    arguments = parser.parse_args()
    config, limits = base(arguments.hidden, arguments.layers), Settings(arguments.runs, arguments.seconds, warmup=1)
    rows = []
    for backend in arguments.backends.split(","):
        for tokens in map(int, arguments.tokens.split(",")):
            steps = tuple(s for s in arguments.steps.split(",") if tokens <= FULL_SCORES or s in "CD")
            settings = {
                "study": "branches" if arguments.branches else "steps",
                "backend": backend,
                "tokens": tokens,
                "hidden": arguments.hidden,
                "layers": arguments.layers,
                "text_tokens": TEXT_TOKENS,
                **({} if arguments.branches else {"steps": list(steps)}),
                "clock": arguments.clock,
                **asdict(limits),
            }
            row = done(RECORD, settings)
            if row is None:
                results = (
                    measure_branches(config, tokens, backend, limits, arguments.clock)
                    if arguments.branches
                    else measure_steps(steps, config, tokens, backend, limits, arguments.clock)
                )
                row = append_study(RECORD, settings, results)
            rows.append(row)
            print((branch_table if arguments.branches else step_table)(rows[-1:]), flush=True)
    print("\n" + (branch_table if arguments.branches else step_table)(rows))
    draw_plots(arguments.hidden, arguments.layers)


if __name__ == "__main__":
    main()
