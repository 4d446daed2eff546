"""Does sparse self-attention with both branches keep up with full attention, and with either branch alone?

usage: python benchmarks/claims/assa/run.py --data data [--steps 600] [--seeds 0,1,2] [--hidden 64]

256 tokens (a 16x16 latent in patches of one cell). Everything but the self-attention of the outer stages is the same.
Every finished run is a row of measurements.jsonl; an interrupted one resumes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import common

HERE = Path(__file__).parent
VARIANTS: dict[str, dict[str, Any]] = {
    "full attention": {"sparse": False},
    "ASSA": {},
    "global only": {"assa": "global"},
    "local only": {"assa": "local"},
}


def main() -> None:
    chosen = common.arguments(HERE, __doc__, steps=600, batch=16, seeds="0,1,2", hidden=64, blocks=16, radius=1)
    data = common.scenes(chosen)
    side = data[0].latents.shape[-1]
    losses: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for seed in chosen.seeds:
        training = common.training_of(chosen, seed)
        for name, changes in VARIANTS.items():
            shape = dict(patch=1, grid=(side, side), blocks=chosen.blocks, radius=chosen.radius)
            config = common.tiny_config(chosen.hidden, data[0], **shape, **changes)
            settings = common.common_settings(chosen, config, training)
            work = common.train(data, config, training, chosen.device)
            found = common.measured(chosen, name.replace(" ", "-"), seed, settings, work)
            losses[name].append(found["validation"]["1.0"])
    tell(chosen, losses, side * side)


def pairs(tokens: int, blocks: int, radius: int) -> dict[str, float]:
    """Key-query pairs of one outer layer, as a share of full attention's."""
    near = sum(min(b + radius, blocks - 1) - max(b - radius, 0) + 1 for b in range(blocks)) / blocks**2
    return {"full attention": 1.0, "ASSA": 0.25 + near, "global only": 0.25, "local only": near}


def tell(chosen, losses: dict[str, list[float]], tokens: int) -> None:
    """Plot, table and sentence."""
    cost, full, rows, told = pairs(tokens, chosen.blocks, chosen.radius), losses["full attention"], [], {}
    for name, values in losses.items():
        mean, spread = common.mean_and_spread(values)
        told[name], spread_of = common.change(values, full)
        against = "" if name == "full attention" else f"{told[name]:+.2f} ± {spread_of:.2f} %"
        rows.append((name, f"{cost[name]:.2f}", f"{mean:.4f} ± {spread:.4f}", against))
    common.plot_points(
        chosen.out / "plot.png", {name: {"validation": values} for name, values in losses.items()}, "validation loss"
    )
    mean, spread = common.mean_and_spread(full)
    sentence = (
        f"At {tokens} tokens, after {chosen.steps:,} steps and over {len(chosen.seeds)} seeds, ASSA is "
        f"{told['ASSA']:+.2f} % against full attention, global only {told['global only']:+.2f} %, local only "
        f"{told['local only']:+.2f} %; seeds of full attention differ by {100 * spread / mean:.2f} %."
    )
    header = ("self-attention", "pairs", "validation loss", "against full, paired by seed")
    common.write_result(chosen.out, HERE, f"**{sentence}**\n\n{common.table(header, rows)}\n\n![losses](plot.png)")
    print(sentence)


if __name__ == "__main__":
    main()
