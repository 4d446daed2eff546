"""Is a width of the supernet as good as a model trained at that width alone? arXiv 2601.08303, section 4.

usage: python benchmarks/claims/elastic/run.py --data data [--steps 1000] [--seeds 0,1,2] [--hidden 96]

Trains, for every seed, one supernet and one standalone model for each width, all on the same batches, and compares
their validation losses at the end. Every finished run is a row of measurements.jsonl; an interrupted one resumes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import common

WIDTHS = (0.375, 0.5, 1.0)
CLAIM = 0.5  # percent
HERE = Path(__file__).parent
Curve = list[list[float]]  # [step, validation loss]


def main() -> None:
    chosen = common.arguments(HERE, __doc__, gradient_scale="none", sub_widths=2)
    data = common.scenes(chosen)
    elastic: dict[float, list[Curve]] = {width: [] for width in WIDTHS}
    alone: dict[float, list[Curve]] = {width: [] for width in WIDTHS}
    config = common.tiny_config(chosen.hidden, data[0], widths=WIDTHS)
    for seed in chosen.seeds:
        training = common.training_of(chosen, seed, gradient_scale=chosen.gradient_scale, sub_widths=chosen.sub_widths)
        settings = common.common_settings(chosen, config, training)
        found = common.measured(chosen, "elastic", seed, settings, common.train(data, config, training, chosen.device))
        for width in WIDTHS:
            elastic[width].append(found["curves"][f"val@{width}"])
            single = config.at(width)
            plain = common.training_of(chosen, seed)
            settings = common.common_settings(chosen, single, plain)
            work = common.train(data, single, plain, chosen.device)
            found_alone = common.measured(chosen, f"standalone-{width}", seed, settings, work)
            alone[width].append(found_alone["curves"]["val@1.0"])
    tell(chosen, elastic, alone)


def losses_at(curves: list[Curve], index: int) -> list[float]:
    """Each seed's loss at one of the validations."""
    return [curve[index][1] for curve in curves]


def on_the_way(elastic: dict[float, list[Curve]], alone: dict[float, list[Curve]]) -> str:
    """A table of the mean difference, in percent, at each validation."""
    steps = [int(step) for step, _ in elastic[WIDTHS[0]][0]]
    rows = [
        (
            f"{width}",
            *(
                f"{common.change(losses_at(elastic[width], i), losses_at(alone[width], i))[0]:+.1f}"
                for i in range(len(steps))
            ),
        )
        for width in WIDTHS
    ]
    return common.table(("width, % after steps", *(f"{step:,}" for step in steps)), rows)


def tell(chosen, elastic_curves: dict[float, list[Curve]], alone_curves: dict[float, list[Curve]]) -> None:
    """Plot, tables and sentence."""
    elastic, alone = (
        {width: losses_at(curves[width], -1) for width in WIDTHS} for curves in (elastic_curves, alone_curves)
    )
    rows, within, worst = [], [], 0.0
    for width in WIDTHS:
        difference, spread = common.change(elastic[width], alone[width])
        mean_e, spread_e = common.mean_and_spread(elastic[width])
        mean_a, spread_a = common.mean_and_spread(alone[width])
        rows.append(
            (
                f"{width}",
                f"{mean_e:.4f} ± {spread_e:.4f}",
                f"{mean_a:.4f} ± {spread_a:.4f}",
                f"{difference:+.2f} ± {spread:.2f} %",
            )
        )
        worst = max(worst, 100 * spread_a / mean_a)
        if difference <= CLAIM:
            within.append(width)
    groups = {f"width {width}": {"elastic": elastic[width], "standalone": alone[width]} for width in WIDTHS}
    common.plot_points(chosen.out / "plot.png", groups, "validation loss")
    verdict = (
        "at every width"
        if len(within) == len(WIDTHS)
        else (f"at {', '.join(map(str, within))} alone" if within else "at no width")
    )
    sentence = (
        f"After {chosen.steps:,} steps, over {len(chosen.seeds)} seeds, the supernet is at most {CLAIM} % "
        f"above the standalone models {verdict}; seeds of one standalone model differ by up to {worst:.2f} % "
        "(standard deviation)."
    )
    header = ("width", "elastic", "standalone", "difference, paired by seed")
    common.write_result(
        chosen.out,
        HERE,
        f"**{sentence}**\n\n{common.table(header, rows)}\n\n"
        f"{on_the_way(elastic_curves, alone_curves)}\n\n![losses](plot.png)",
    )
    print(sentence)


if __name__ == "__main__":
    main()
