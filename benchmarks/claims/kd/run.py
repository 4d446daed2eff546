"""Does a teacher lower the student's validation loss, and does S beat a constant weight? arXiv 2601.08303, section 5.

usage: python benchmarks/claims/kd/run.py --data data [--steps 600] [--seeds 0,1,2] [--hidden 64]

Trains one larger teacher for `--teacher-steps`, then, for every seed, students from the same start on the same batches:
without a teacher, with S and with a constant weight, each with and without features, and with S and a tenth of them.
Every finished run is a row of measurements.jsonl; an interrupted one resumes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import common

from edgegen.model.elastic import ElasticDiT, elastic_state, load_elastic_, materialize
from edgegen.train.stages.kd import KDTraining, Teacher, first_input, train_kd
from edgegen.train.stages.results import elastic_result

HERE = Path(__file__).parent
VARIANTS: dict[str, dict[str, Any]] = {
    "S": {"operator": "timestep"},
    "constant": {"operator": "constant"},
    "S without features": {"operator": "timestep", "feature_weight": 0.0},
    "constant without features": {"operator": "constant", "feature_weight": 0.0},
    "S, a tenth of features": {"operator": "timestep", "feature_weight": 0.1},
}
TEACHER_SEED = 100


def main() -> None:
    chosen = common.arguments(
        HERE, __doc__, steps=600, hidden=64, teacher_hidden=128, teacher_steps=1200, flow_share=0.5, feature_weight=1.0
    )
    data = common.scenes(chosen)
    teacher, teacher_loss = make_teacher(chosen, data)
    config = common.tiny_config(chosen.hidden, data[0])
    losses: dict[str, list[float]] = {name: [] for name in ("no teacher", *VARIANTS)}
    for seed in chosen.seeds:
        training = common.training_of(chosen, seed)
        settings = common.common_settings(chosen, config, training)
        work = common.train(data, config, training, chosen.device)
        losses["no teacher"].append(common.measured(chosen, "no-teacher", seed, settings, work)["validation"]["1.0"])
        for name, changes in VARIANTS.items():
            losses[name].append(distilled(chosen, data, config, teacher, seed, name, changes))
    tell(chosen, losses, teacher_loss)


def make_teacher(chosen, data) -> tuple[Teacher, float]:
    """The larger model, trained once, and its validation loss."""
    config = common.tiny_config(chosen.teacher_hidden, data[0], depths=(2, 4, 2))
    training = common.training_of(
        chosen, TEACHER_SEED, steps=chosen.teacher_steps, validate_every=max(1, chosen.teacher_steps // 10)
    )
    settings = common.common_settings(chosen, config, training)
    folder = chosen.runs / f"teacher-{TEACHER_SEED}-{chosen.teacher_steps}"
    work = common.train(data, config, training, chosen.device)
    loss = common.measured(chosen, "teacher", TEACHER_SEED, settings, lambda _: work(folder))["validation"]["1.0"]
    work(folder)  # its weights, trained again only where a row is all that is left of it
    _, state = elastic_result(folder)
    model = ElasticDiT(config)
    load_elastic_(model, state)
    dit = materialize(model, 1.0)
    return Teacher(dit, dit.final, first_input, dit.config.hidden), loss


def distilled(chosen, data, config, teacher: Teacher, seed: int, name: str, changes: dict[str, Any]) -> float:
    """The validation loss of a student that starts as the one without a teacher does."""
    fixed = {"teacher": "trained here", "flow_share": chosen.flow_share, "feature_weight": chosen.feature_weight}
    plain = common.training_of(chosen, seed)
    training = KDTraining(**({k: getattr(plain, k) for k in plain.__dataclass_fields__} | fixed | changes))
    settings = common.common_settings(chosen, config, training) | {
        "teacher_hidden": chosen.teacher_hidden,
        "teacher_steps": chosen.teacher_steps,
    }
    start = elastic_state(ElasticDiT(config, seed))
    return common.measured(
        chosen,
        name.replace(" ", "-").replace(",", ""),
        seed,
        settings,
        lambda folder: train_kd(data[0], data[1], folder, config, training, start, teacher, device=chosen.device),
    )["validation"]["1.0"]


def tell(chosen, losses: dict[str, list[float]], teacher_loss: float) -> None:
    """Plot, table and sentence."""
    plain, rows, told = losses["no teacher"], [("teacher", f"{teacher_loss:.4f}", "")], {}
    for name, values in losses.items():
        mean, spread = common.mean_and_spread(values)
        told[name], spread_of = common.change(values, plain)
        against = "" if name == "no teacher" else f"{told[name]:+.2f} ± {spread_of:.2f} %"
        rows.append((name, f"{mean:.4f} ± {spread:.4f}", against))
    common.plot_points(
        chosen.out / "plot.png",
        {name: {"validation": values} for name, values in losses.items()},
        "validation loss of the student",
    )
    pairs = {"S": "constant", "S without features": "constant without features"}
    against = {name: common.change(losses[name], losses[other]) for name, other in pairs.items()}
    _, noise = common.mean_and_spread(plain)
    sentence = (
        f"After {chosen.steps:,} steps, over {len(chosen.seeds)} seeds, distilling outputs alone changes the "
        f"student's validation loss by {told['S without features']:+.2f} % with S and by "
        f"{told['constant without features']:+.2f} % with a constant weight (S against constant: "
        f"{against['S without features'][0]:+.2f} ± {against['S without features'][1]:.2f} %); with features "
        f"of weight {chosen.feature_weight:g} as well, by {told['S']:+.2f} % and {told['constant']:+.2f} % "
        f"({against['S'][0]:+.2f} ± {against['S'][1]:.2f} %). Seeds without a teacher differ by "
        f"{100 * noise / common.mean_and_spread(plain)[0]:.2f} %."
    )
    header = ("student", "validation loss", "against no teacher, paired by seed")
    common.write_result(chosen.out, HERE, f"**{sentence}**\n\n{common.table(header, rows)}\n\n![losses](plot.png)")
    print(sentence)


if __name__ == "__main__":
    main()
