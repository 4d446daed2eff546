"""`edgegen quantize`: measure, allocate, cluster, tune, verify, write; each stage is saved and can be resumed.

Stages lie in `.<out>.unfinished/` beside the output until it is whole:
  settings.json  sensitivity.json  bits.json  weights.safetensors  tuning.safetensors
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgegen.callbacks import Advance, Report
from edgegen.errors import EdgegenError, InputError
from edgegen.files import disk_errors, replace_json, write_json
from edgegen.folders import check_apart, check_free, checked_target, new_folder
from edgegen.model.checkpoint import Checkpoint, load_checkpoint
from edgegen.model.dit import DiT
from edgegen.model.quantization import QuantizationConfig
from edgegen.model.states import open_safetensors, some, write_tensors
from edgegen.quantize.allocate import write_plan
from edgegen.quantize.calibration import default_prompts
from edgegen.quantize.checkpoint import average_bits, refuse_quantized, write_quantized
from edgegen.quantize.layers import quantizable
from edgegen.quantize.methods import GROUP, check_method, integer_plan, quantize_weights
from edgegen.quantize.pictures import draw_rows
from edgegen.quantize.plan import (
    BitPlan,
    PlanRequest,
    as_plan,
    choose,
    follow,
    measure_layers,
    read_layers,
    write_layers,
)
from edgegen.quantize.report import page
from edgegen.quantize.stages import AGAIN, check_stages, reading_stage, remove_stages_, stages_folder
from edgegen.quantize.stored import StoredWeights, stored_kind
from edgegen.quantize.trajectories import (
    Conditions,
    Points,
    Sampling,
    draw_points,
    encode_prompts,
    mixed_seed,
    sampling_of,
    velocity_error,
    velocity_psnr,
)
from edgegen.quantize.tune import Tuned, Tuning, fill_, trainable, tune_
from edgegen.schema import from_values
from edgegen.strict_json import read_json, read_text

MARKER, REPORT, PAGE, PLAN = "config.json", "report.json", "report.html", "plan.json"
REPORT_POINTS, FEW_POINTS = 64, 4  # points that neither tuning nor its choice of an average saw
LARGE = 100_000_000  # parameters: above, a forward pass takes a minute here; few points, and no pictures
BITS = 4.3


@dataclass(frozen=True)
class QuantizeRequest:
    """What to quantize and how; everything but `resume` and `overwrite` decides what comes out."""

    checkpoint: Checkpoint
    out: Path
    width: float
    method: str = "palette"
    bits: float = BITS
    candidates: tuple[int, ...] = (4, 8)
    group: int = GROUP
    prompts: tuple[str, ...] = ()  # calibration; the checkpoint's own if empty
    plan: Path | None = None
    measure: str = "velocity"  # whose error the bit plan keeps small; the paper takes a layer's output
    tuning: Tuning = field(default_factory=Tuning)
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", checked_target(self.out))
        check_apart(self.out, self.checkpoint.folder, "checkpoint")
        refuse_quantized(self.checkpoint)
        check_method(self.method)
        self.checkpoint.check_width(self.width)
        if self.plan is not None and self.method != "palette":
            raise InputError(f"--plan goes with --method palette, not {self.method}.", "Leave it out.")
        if self.plan is not None and not self.plan.is_file():
            raise InputError(f"plan {self.plan} is not a file.", "Give a plan that quantize wrote.")

    @property
    def calibration(self) -> tuple[str, ...]:
        return self.prompts or tuple(default_prompts(self.checkpoint))

    @property
    def planning(self) -> PlanRequest:
        return PlanRequest(self.bits, self.candidates, self.measure, self.plan)

    @property
    def work(self) -> Path:
        return stages_folder(self.out)

    def settings(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed."""
        plan = None if self.plan is None else read_text(self.plan, "Give a plan that quantize wrote.")
        palette = {"bits": self.bits, "candidates": list(self.candidates), "measure": self.measure, "plan": plan}
        chosen = palette if self.method == "palette" else {"group": self.group}
        return {
            "checkpoint": source_of(self.checkpoint),
            "width": self.width,
            "method": self.method,
            **chosen,
            "prompts": list(self.calibration),
            "tuning": self.tuning.settings(),
        }


@dataclass(frozen=True)
class Models:
    """The unquantized model, its weights to quantize, and how it is sampled."""

    teacher: DiT
    weights: dict[str, Tensor]
    conditions: Conditions
    sampling: Sampling


def quantize(
    request: QuantizeRequest, say: Report = lambda line: None, advance: Advance = lambda done, of: None
) -> dict:
    """Makes the quantized checkpoint of a request in its folder; returns the report that lies there as report.json."""
    check_stages(request.work)
    if request.resume and is_finished(request):
        remove_stages_(request.work)
        return read_json(request.out / REPORT)
    check_free(request.out, MARKER, request.overwrite)
    models = open_models(request)
    if request.method == "palette":
        request.planning.check(models.weights)
    with disk_errors(request.out):
        open_work(request)
        plan = find_bits(request, models, say, advance)
        weights = cluster(request, models, plan, say, advance)
        before, after, tuned = tune(request, models, weights, say, advance)
    quantization = QuantizationConfig(
        request.width, request.method, plan.bits_asked, round(average_bits(weights), 6), plan.bits,
        request.group if request.method == "int4-group" else 0, request.tuning.steps,
        source_of(request.checkpoint),
    )  # fmt: skip
    say("verifying and writing")
    with new_folder(request.out, MARKER, request.overwrite) as root:
        rest = {name: value.detach() for name, value in trainable(after, weights).items()}
        write_quantized(root, request.checkpoint, weights, rest, quantization)
        stored = read_back(root, request.width, weights)
        report = make_report(request, models, plan, weights, quantization, before, stored, tuned, root)
        write_json(root / REPORT, report)
        drawn = draw_before_and_after(request, models, before, stored)
        (root / PAGE).write_text(page(report, drawn), encoding="utf-8")
        if request.method == "palette":
            write_plan(root / PLAN, as_plan(plan, models.weights))
    remove_stages_(request.work)
    return report


def source_of(checkpoint: Checkpoint) -> dict[str, str]:
    """What a checkpoint is, wherever it lies."""
    return {key: str(value) for key, value in checkpoint.origin.items() if key != "path"}


def is_finished(request: QuantizeRequest) -> bool:
    """Whether the output is there and is what the request asks for."""
    if not (request.out / REPORT).is_file() or not (request.out / MARKER).is_file():
        return False
    found = read_json(request.out / REPORT)
    return isinstance(found, dict) and found.get("settings") == json.loads(json.dumps(request.settings()))


def open_models(request: QuantizeRequest) -> Models:
    """Reads what is quantized; a weight with NaN or infinite values is an error that names it."""
    teacher = request.checkpoint.transformer(request.width)
    weights = quantizable(teacher)
    if not weights:
        raise InputError(
            f"checkpoint {request.checkpoint.config.name} has no weight large enough to quantize at width "
            f"{request.width:g}.",
            "Export it as it is.",
        )
    return Models(
        teacher, weights, encode_prompts(request.checkpoint, request.calibration), sampling_of(request.checkpoint)
    )


def open_work(request: QuantizeRequest) -> None:
    """Makes the folder of stages, or takes up one of the same settings."""
    path, settings = request.work / "settings.json", json.loads(json.dumps(request.settings()))
    if request.work.exists() and not request.resume:
        if not request.overwrite and path.is_file():
            raise InputError(
                f"{request.work} holds an unfinished run.",
                "Pass --resume to go on with it, or --overwrite to start again.",
            )
        remove_stages_(request.work)
    if path.is_file():
        found = read_json(path, AGAIN) if not request.overwrite else read_settings(path)
        if found == settings:
            return
        if not request.overwrite:
            found = found if isinstance(found, dict) else {}
            wrong = sorted(key for key in found.keys() | settings.keys() if found.get(key) != settings.get(key))
            raise InputError(
                f"{request.work} was started with another {', '.join(wrong)}.",
                "Give the settings it was started with, or --overwrite to start again.",
            )
        remove_stages_(request.work)
    request.work.mkdir(parents=True, exist_ok=True)
    replace_json(path, settings)


def read_settings(path: Path) -> Any:
    """The settings of an unfinished run; none where they cannot be read."""
    try:
        return read_json(path)
    except InputError:
        return None


def find_bits(request: QuantizeRequest, models: Models, say: Report, advance: Advance) -> BitPlan:
    """The bits of every weight."""
    path, measured = request.work / "bits.json", request.work / "sensitivity.json"
    if not path.is_file():
        if request.method != "palette":
            plan = integer_bits(request, models)
        elif request.plan is not None:
            plan = follow(request.plan, models.weights)
        else:
            if not measured.is_file():
                write_layers(
                    measured,
                    measure_layers(
                        request.planning, request.checkpoint, models.teacher, request.calibration, say, advance
                    ),
                )
            say(f"giving each weight its bits: {request.bits:g} on average")
            with reading_stage(measured):
                plan = choose(request.planning, read_layers(measured))
        replace_json(path, asdict(plan))
    with reading_stage(path):
        found = from_values(BitPlan, read_json(path, AGAIN), str(path))
        strangers = sorted(found.bits.keys() - models.weights.keys())
        if strangers or not all(1 <= bits <= 8 for bits in found.bits.values()):
            raise ValueError(f"bits of {some(strangers) or 'a weight'} cannot be")
        return found


def integer_bits(request: QuantizeRequest, models: Models) -> BitPlan:
    """The plan of a method that leaves no choice."""
    bits = integer_plan(models.weights, request.method, request.group)
    elements = sum(weight.numel() for weight in models.weights.values())
    asked = sum(bits[name] * weight.numel() for name, weight in models.weights.items()) / elements
    return BitPlan(bits, round(asked, 6))


def cluster(request: QuantizeRequest, models: Models, plan: BitPlan, say: Report, advance: Advance) -> StoredWeights:
    """The quantized weights, as a file of their own."""
    path = request.work / "weights.safetensors"
    if not path.is_file():
        say(f"quantizing {len(plan.bits)} weights: {request.method}")
        made = quantize_weights(models.weights, plan.bits, request.method, request.group, advance)
        write_tensors(
            path, {key: value for name, weight in made.items() for key, value in weight.to_tensors(name).items()}
        )
    with reading_stage(path):
        file = open_safetensors(path, AGAIN)
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        kind = stored_kind(request.method)
        return {
            name: kind.from_tensors(name, tensors, bits, tuple(models.weights[name].shape))
            for name, bits in plan.bits.items()
        }


def tune(
    request: QuantizeRequest, models: Models, weights: StoredWeights, say: Report, advance: Advance
) -> tuple[DiT, DiT, Tuned]:
    """The quantized model before tuning, after it, and what tuning measured."""
    before = deepcopy(models.teacher)
    parameters = dict(before.named_parameters())
    fill_({name: parameters[name] for name in weights}, {name: weight.dense() for name, weight in weights.items()})
    after = deepcopy(before)
    say(f"tuning biases, norms and modulation: {request.tuning.steps} steps")
    tuned = tune_(
        after,
        models.teacher,
        weights,
        models.conditions,
        models.sampling,
        request.tuning,
        request.work / "tuning.safetensors",
        advance,
    )
    return before, after, tuned


def read_back(root: Path, width: float, weights: StoredWeights) -> DiT:
    """The transformer as stored; one whose quantized weights differ from what was tuned with is an error."""
    model = load_checkpoint(root).transformer(width)
    parameters = dict(model.named_parameters())
    wrong = [name for name, weight in weights.items() if not torch.equal(parameters[name], weight.dense())]
    if wrong:
        raise EdgegenError(f"{some(wrong)} read back otherwise than written.", "This is a bug of edgegen.")
    return model


def make_report(
    request: QuantizeRequest,
    models: Models,
    plan: BitPlan,
    weights: StoredWeights,
    made: QuantizationConfig,
    before: DiT,
    stored: DiT,
    tuned: Tuned,
    root: Path,
) -> dict[str, Any]:
    """report.json: no time and no machine, so that the same request gives the same bytes."""
    count = FEW_POINTS if is_large(stored) else REPORT_POINTS
    points = draw_points(models.teacher, models.conditions, models.sampling, count, mixed_seed("report"))
    velocity = measure_velocity("before", before, points, models) | measure_velocity("after", stored, points, models)
    if not math.isfinite(velocity["error_after"]):
        raise EdgegenError("the quantized model's velocity is not finite.", "Allow more bits, or fewer tuning steps.")
    layers = [
        {
            "name": name,
            "shape": list(weight.shape),
            "bits": plan.bits[name],
            "bytes": weight.nbytes,
            "errors": (plan.errors or {}).get(name, {}),
        }
        for name, weight in weights.items()
    ]
    return {
        "model": request.checkpoint.config.name, "width": request.width, "method": request.method,
        "bits_asked": plan.bits_asked, "bits": made.bits, "error": plan.error,
        "parameters": sum(p.numel() for p in stored.parameters()),
        "quantized_parameters": sum(math.prod(weight.shape) for weight in weights.values()),
        "velocity": velocity,
        "tuning": {"steps": request.tuning.steps, "error_before": tuned.error_before, "error_after": tuned.error_after,
                   "curve": [list(point) for point in tuned.curve]},
        "components": component_sizes(request, stored, root), "measure": plan.measure, "curve": list(plan.curve),
        "layers": layers,
        "pictures": [{"prompt": prompt, "seed": seed} for seed, prompt in enumerate(prompts_to_draw(request, stored))],
        "settings": request.settings(),
    }  # fmt: skip


def measure_velocity(when: str, model: DiT, points: Points, models: Models) -> dict[str, float]:
    """The error and PSNR of a model's velocity on points of the unquantized one's trajectories."""
    error = velocity_error(model, points, models.conditions)
    return {f"error_{when}": error, f"psnr_{when}_db": round(velocity_psnr(error, points), 3)}


def component_sizes(request: QuantizeRequest, stored: DiT, root: Path) -> list[dict[str, Any]]:
    """Bytes of each component in float16 and in the folder."""
    halves = {"transformer": 2 * sum(p.numel() for p in stored.parameters())}
    halves |= {
        part: 2 * sum(math.prod(shape) for shape in request.checkpoint.shapes(part).values())
        for part in ("text_encoder", "decoder")
    }
    return [
        {"name": part, "bytes_float16": size, "bytes": (root / f"{part}.safetensors").stat().st_size}
        for part, size in halves.items()
    ]


def is_large(model: DiT) -> bool:
    return sum(p.numel() for p in model.parameters()) > LARGE


def prompts_to_draw(request: QuantizeRequest, model: DiT) -> tuple[str, ...]:
    """The checkpoint's first prompts; none where drawing would take long."""
    return () if is_large(model) else request.checkpoint.config.prompts[:4]


def draw_before_and_after(request: QuantizeRequest, models: Models, before: DiT, after: DiT) -> Mapping[str, list]:
    """Pictures of the unquantized model, the quantized one and the tuned one at the same seeds."""
    prompts = prompts_to_draw(request, after)
    if not prompts:
        return {}
    conditions, decoder = encode_prompts(request.checkpoint, prompts), request.checkpoint.decoder()
    rows = range(1, len(prompts) + 1)
    columns = {"Unquantized": models.teacher, f"Quantized, {request.method}": before}
    if request.tuning.steps:
        columns["Quantized and tuned"] = after
    return {name: draw_rows(model, decoder, conditions, rows, models.sampling, 0) for name, model in columns.items()}
