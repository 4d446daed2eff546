"""Knowledge distillation from a large teacher, arXiv 2601.08303 section 5: output, last-layer features, and S.

Total for a width: S(L_flow, L_output) + L_feature. The paper calls S "timestep-aware scaling" and does not define it;
here, per sample, S = a L_flow + (1 - a) stopgrad(clip(L_flow / L_output)) L_output with a = exp(-logit(t)^2 / 2) /
(4 t (1 - t)): one in the middle of the path, where the flow loss says most, and falling to zero at both ends. The
alternative is a constant share of the flow loss.

Shapes: B batch, C latent channels, h x w latent grid, N tokens, D student channels, E teacher channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgegen.errors import InputError
from edgegen.model.blocks import double
from edgegen.model.config import DiTConfig
from edgegen.model.elastic import ElasticDiT, key
from edgegen.runs import parallel
from edgegen.runs.ranges import check_choice
from edgegen.train.stages.blockwise import BlockwiseElastic
from edgegen.train.stages.loop import (
    Batch,
    DrawGrids,
    ElasticRun,
    ElasticTraining,
    TrainingData,
    ValidationData,
    train_run,
)

if TYPE_CHECKING:
    from edgegen.train.stages.frozen import Frozen

RATIO_RANGE = (0.1, 10.0)
OPERATORS = ("timestep", "constant")


@dataclass(frozen=True)
class Start:
    """A distillation has no model settings of its own: the student is what it starts from."""


@dataclass(frozen=True)
class KDTraining(ElasticTraining):
    """Settings of a distillation, beside those of an elastic run."""

    checkpoint: str = ""  # folder of the checkpoint the student starts as; empty: what runs/elastic has learnt
    teacher: str = ""  # folder: one of our checkpoints, or a diffusers QwenImageTransformer2DModel
    teacher_width: float = 1.0  # of one of ours
    operator: str = "timestep"  # how flow and output loss are mixed: timestep is S, constant is flow_share everywhere
    flow_share: float = 0.5  # of the constant operator: the flow loss's; the output loss has the rest
    feature_weight: float = 1.0  # 0: no feature loss

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("operator", self.operator, OPERATORS)
        if self.compile:
            raise InputError("compile is not for distillation, which reads the features of a layer.", "Leave it out.")


def flow_weight(t: Tensor) -> Tensor:
    """a(t) in (0, 1] for t (B,) in (0, 1): the logit-normal density over its value at 1/2, by which t is drawn."""
    wide = double(t).clamp(1e-6, 1 - 1e-6)
    weight = torch.exp(-torch.logit(wide).square() / 2) / (4 * wide * (1 - wide))
    return weight.float().to(t.device)


def timestep_aware(flow: Tensor, output: Tensor, t: Tensor) -> Tensor:
    """S of per-sample losses (B,) at t (B,): (B,)."""
    weight = flow_weight(t)
    ratio = (flow.detach() / output.detach().clamp_min(1e-12)).clamp(*RATIO_RANGE)
    return weight * flow + (1 - weight) * ratio * output


def mix_losses(flow: Tensor, output: Tensor, t: Tensor, operator: str, flow_share: float) -> Tensor:
    """Per-sample losses (B,) as one, by S or by a constant share."""
    if operator == "timestep":
        return timestep_aware(flow, output, t)
    return flow_share * flow + (1 - flow_share) * output


def per_sample(difference: Tensor) -> Tensor:
    """Mean square of each row (B, ...): (B,)."""
    return difference.square().flatten(1).mean(1)


def feature_loss(projected: Tensor, taught: Tensor) -> Tensor:
    """Mean square error of projected features (B, N, E) over the teacher's mean square, so free of its scale.

    The ratio is taken row by row, so that the loss of a batch is the mean of its parts' losses.
    """
    taught = taught.detach()
    return (per_sample(projected - taught) / per_sample(taught).clamp_min(1e-12)).mean()


@contextmanager
def capture_calls(module: nn.Module, pick: Callable[[Any, Any], Tensor]) -> Iterator[list[Tensor]]:
    """Collects `pick(inputs, output)` of every call of a module in the block; its code stays as it is."""
    found: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, inputs, output: found.append(pick(inputs, output)))
    try:
        yield found
    finally:
        handle.remove()


def first_input(inputs: tuple, output: Any) -> Tensor:
    return inputs[0]


def last_output(inputs: tuple, output: Any) -> Tensor:
    return output[-1]


class Teacher:
    """A frozen network with the inputs of `DiT`; gives velocity (B, C, h, w) and last-layer features (B, N, E)."""

    def __init__(self, network: nn.Module, layer: nn.Module, pick: Callable[[Any, Any], Tensor], feature_size: int):
        self.network, self.layer, self.pick, self.feature_size = network, layer, pick, feature_size
        network.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        with capture_calls(self.layer, self.pick) as features:
            velocity = self.network(*inputs)
        return velocity.float(), features[-1].float()

    def to(self, device: str) -> Teacher:
        self.network.to(device)
        return self


def last_layer(model: ElasticDiT, width: float) -> nn.Module:
    """The module whose first input is the last block's output at a width."""
    if isinstance(model, BlockwiseElastic):
        return model._outlines[width].final
    return model.full.final if width == 1.0 else model._skeletons[width].final


class KDRun(ElasticRun):
    """An elastic run that also learns a teacher's velocities and, through a projector for each width, its features."""

    def __init__(
        self,
        config: DiTConfig,
        training: KDTraining,
        teacher: Teacher,
        start: Mapping[str, Tensor],
        blockwise: bool = False,
        recompute: bool = False,
    ):
        super().__init__(config, training.seed, blockwise, recompute, start)
        self.training_settings, self.teacher = training, teacher
        self.projectors = nn.ModuleDict()
        generator = torch.Generator().manual_seed(training.seed)
        for width in config.widths if training.feature_weight else ():
            projector = nn.Linear(config.at(width).hidden, teacher.feature_size)
            nn.init.xavier_uniform_(projector.weight, generator=generator)
            nn.init.zeros_(projector.bias)
            self.projectors[key(str(width))] = projector

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        return super().trained_parameters() | {f"projectors.{n}": p for n, p in self.projectors.named_parameters()}

    def shard_(self) -> None:
        super().shard_()
        for projector in self.projectors.values():
            parallel.shard_rest_(projector)

    def task(self, width: float, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        settings = self.training_settings
        if not batch.taught:  # once for all widths
            with self.autocast():
                batch.taught = self.teacher.to(self.device)(*batch.inputs)
        taught_velocity, taught_features = batch.taught
        with self.autocast(), capture_calls(last_layer(self.model, width), first_input) as features:
            velocity = self.model(width, *batch.inputs)
        velocity = velocity.float()
        flow = per_sample(batch.noise - batch.x0 - velocity)  # (B,)
        output = per_sample(taught_velocity - velocity)  # (B,)
        loss = mix_losses(flow, output, batch.t, settings.operator, settings.flow_share).mean()
        numbers = {"loss": flow.mean(), "output": output.mean()}
        if settings.feature_weight:
            projected = self.projectors[key(str(width))](features[-1].float())  # (B, N, E)
            check_tokens(projected, taught_features)
            numbers["feature"] = feature_loss(projected, taught_features)
            loss = loss + settings.feature_weight * numbers["feature"]
        return loss, velocity, numbers


def check_tokens(student: Tensor, teacher: Tensor) -> None:
    """Refuses features of another number of tokens."""
    if student.shape[1] != teacher.shape[1]:
        raise InputError(
            f"the student's last layer has {student.shape[1]} tokens, the teacher's {teacher.shape[1]}.",
            "Use a teacher of the same patch size, or --set feature_weight=0.",
        )


def train_kd(
    data: TrainingData,
    validation: ValidationData,
    run_dir: Path,
    config: DiTConfig,
    training: KDTraining,
    start: Mapping[str, Tensor],
    teacher: Teacher,
    stop_after: int | None = None,
    device: str = "cpu",
    draw: DrawGrids | None = None,
) -> dict[str, Tensor]:
    """Distils a teacher into a supernet that starts from weights by checkpoint name; see `train_elastic`."""

    def make(blockwise: bool, recompute: bool) -> KDRun:
        return KDRun(config, training, teacher, start, blockwise, recompute)

    return train_run(make, data, validation, run_dir, config, training, stop_after, device, draw)


def student_start(checkpoint: str, runs_dir: Path) -> tuple[DiTConfig, Mapping[str, Tensor]]:
    """Configuration and weights by checkpoint name that a student starts from: a checkpoint's, or of runs/elastic."""
    from edgegen.model.checkpoint import load_checkpoint
    from edgegen.train.stages.results import elastic_result

    if not checkpoint:
        return elastic_result(runs_dir / "elastic")
    opened = load_checkpoint(checkpoint)
    return opened.config.transformer, opened.states["transformer"]


def check_same_encoders(teacher: str, frozen: Frozen) -> None:
    """Refuses one of our checkpoints as teacher when it was trained on other latents or other text than `frozen`'s."""
    from edgegen.model.checkpoint import load_checkpoint
    from edgegen.model.families.qwen_image import is_diffusers

    if is_diffusers(Path(teacher)):
        return  # nothing here tells which autoencoder and text encoder it was trained with
    states = load_checkpoint(teacher).states
    for part, module in (("encoder", frozen.autoencoder.encoder), ("text_encoder", frozen.text)):
        if part not in states:
            continue  # a checkpoint need not have an encoder
        ours, theirs = module.state_dict(), states[part]
        if theirs.keys() != ours.keys() or not all(torch.equal(theirs[name], ours[name]) for name in ours):
            raise InputError(
                f"the {part} of the teacher {teacher} is not the one the student is trained with.",
                "Distil from a teacher of the same autoencoder and text encoders.",
            )


def open_teacher(folder: str | Path, width: float, config: DiTConfig) -> Teacher:
    """The teacher in a folder, of a student's configuration: one of our checkpoints at a width, or Qwen-Image's."""
    from edgegen.model.checkpoint import load_checkpoint
    from edgegen.model.families.qwen_image import is_diffusers, load_qwen_image

    if str(folder) in ("", "."):
        raise InputError("a distillation needs a teacher.", "Give one with --set teacher=DIR.")
    folder = Path(folder)
    if is_diffusers(folder):
        outside = load_qwen_image(folder)
        check_fit(folder, outside.text_dim, outside.latent_channels, config)
        return Teacher(outside, outside.last_block, last_output, outside.feature_size)
    checkpoint = load_checkpoint(folder)
    check_fit(folder, checkpoint.config.transformer.text_dim, checkpoint.config.transformer.in_channels, config)
    dit = checkpoint.transformer(width)
    return Teacher(dit, dit.final, first_input, dit.config.hidden)


def check_fit(folder: Path, text_dim: int, channels: int, config: DiTConfig) -> None:
    """Refuses a teacher that cannot read what the student reads."""
    for what, theirs, ours in (
        ("text channels", text_dim, config.text_dim),
        ("latent channels", channels, config.in_channels),
    ):
        if theirs != ours:
            raise InputError(
                f"the teacher in {folder} reads {theirs} {what}, the student {ours}.",
                "Use a teacher and a student of the same autoencoder and text encoders.",
            )
