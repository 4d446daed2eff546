"""`edgegen quantize`: measure, allocate, cluster, tune, verify, write; each stage is saved and can be resumed.

Stages lie in `.<out>.unfinished/` beside the output until it is whole:
  settings.json  gradients.json  sensitivity.json  bits.json  weights.safetensors  tuning.safetensors
"""

from __future__ import annotations

import json
import math
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgegen.callbacks import Advance, Report
from edgegen.errors import EdgegenError, InputError
from edgegen.files import disk_errors, replace_json, write_json
from edgegen.folders import check_free, new_folder
from edgegen.model.checkpoint import load_checkpoint
from edgegen.model.dit import DiT
from edgegen.model.quantization import QuantizationConfig
from edgegen.model.states import open_safetensors, some, write_tensors
from edgegen.quantize.allocate import write_plan
from edgegen.quantize.checkpoint import average_bits, write_quantized
from edgegen.quantize.layers import quantizable
from edgegen.quantize.methods import integer_plan, quantize_weights
from edgegen.quantize.pictures import draw_rows
from edgegen.quantize.plan import (
    BitPlan,
    Sample,
    as_plan,
    choose,
    follow,
    measure_layers,
    read_layers,
    write_layers,
)
from edgegen.quantize.report import page
from edgegen.quantize.request import MARKER, QuantizeRequest, check_memory, source_of
from edgegen.quantize.stages import AGAIN, check_stages, reading_stage, remove_stages_
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
from edgegen.quantize.tune import Tuned, fill_, trainable, tune_
from edgegen.schema import from_values
from edgegen.strict_json import read_json

REPORT, PAGE, PLAN = "report.json", "report.html", "plan.json"
REPORT_POINTS, FEW_POINTS = 64, 4  # points that neither tuning nor its choice of an average saw; of a large network


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
    check_memory(request)
    plan, weights, outcome = make(request, say, advance)
    quantization = QuantizationConfig(
        request.width, request.method, plan.bits_asked, round(average_bits(weights), 6), plan.bits,
        request.group if request.method == "int4-group" else 0, request.tuning.steps,
        source_of(request.checkpoint),
    )  # fmt: skip
    say("verifying and writing")
    with new_folder(request.out, MARKER, request.overwrite) as root:
        write_quantized(root, request.checkpoint, weights, outcome.rest, quantization)
        stored = read_back(root, request.width, weights)
        report = make_report(request, plan, weights, quantization, stored, outcome, root)
        write_json(root / REPORT, report)
        last = "Quantized and tuned" if request.tuning.steps else f"Quantized, {request.method}"
        drawn = outcome.drawn | draw_column(last, request, stored)
        (root / PAGE).write_text(page(report, drawn), encoding="utf-8")
        if request.method == "palette":
            write_plan(root / PLAN, as_plan(plan, {name: tuple(weight.shape) for name, weight in weights.items()}))
    remove_stages_(request.work)
    return report


def make(request: QuantizeRequest, say: Report, advance: Advance) -> tuple[BitPlan, StoredWeights, Outcome]:
    """All that needs the unquantized network, which is not held any more when this returns."""
    models = open_models(request)
    if request.method == "palette":
        request.planning.check(models.weights)
    with disk_errors(request.out):
        open_work(request)
        plan = find_bits(request, models, say, advance)
        weights = cluster(request, models, plan, say, advance)
        return plan, weights, tune(request, models, weights, say, advance)


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
        teacher,
        weights,
        encode_prompts(request.checkpoint, request.calibration),
        sampling_of(request.checkpoint, request.resolution),
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
                write_layers(measured, measure_layers(request.planning, sample_of(request, models), say, advance))
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


def sample_of(request: QuantizeRequest, models: Models) -> Sample:
    """What sensitivity is measured on."""
    return Sample(
        request.checkpoint,
        models.teacher,
        request.calibration,
        models.conditions,
        models.sampling,
        request.work / "gradients.json",
    )


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


@dataclass(frozen=True)
class Outcome:
    """What is known when the unquantized network is no longer held."""

    rest: dict[str, Tensor]  # the parameters that are not quantized, tuned
    tuning: Tuned
    points: Points  # of the unquantized network
    conditions: Conditions
    error_before: float | None  # of the velocity, before tuning; None: it was not tuned
    drawn: dict[str, list[np.ndarray]]  # pictures by column, without the last


def tune(request: QuantizeRequest, models: Models, weights: StoredWeights, say: Report, advance: Advance) -> Outcome:
    """Tunes what is not quantized, and keeps of the unquantized network what its copy is judged by."""
    teacher, conditions = models.teacher, models.conditions
    say(f"tuning biases, norms and modulation: {request.tuning.steps} steps")
    count = FEW_POINTS if request.is_large else REPORT_POINTS
    points = draw_points(teacher, conditions, models.sampling, count, mixed_seed("report"))
    drawn = draw_column("Unquantized", request, teacher)
    if not request.tuning.steps:
        rest = {name: value.detach().clone() for name, value in trainable(teacher, weights).items()}
        return Outcome(rest, Tuned(rest, None, None, []), points, conditions, None, drawn)
    student = deepcopy(teacher)
    parameters = dict(student.named_parameters())
    fill_({name: parameters[name] for name in weights}, {name: weight.dense() for name, weight in weights.items()})
    before = velocity_error(student, points, conditions)
    drawn |= draw_column(f"Quantized, {request.method}", request, student)
    tuned = tune_(
        student, teacher, weights, conditions, models.sampling, request.tuning, request.work / "tuning.safetensors",
        advance,
    )  # fmt: skip
    return Outcome(tuned.values, tuned, points, conditions, before, drawn)


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
    plan: BitPlan,
    weights: StoredWeights,
    made: QuantizationConfig,
    stored: DiT,
    outcome: Outcome,
    root: Path,
) -> dict[str, Any]:
    """report.json: no time and no machine, so that the same request gives the same bytes."""
    velocity, tuned = measure_velocity(stored, outcome), outcome.tuning
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
        "model": request.checkpoint.config.name, "random_weights": request.checkpoint.is_random,
        "width": request.width, "method": request.method,
        "bits_asked": plan.bits_asked, "bits": made.bits, "error": plan.error,
        "parameters": sum(p.numel() for p in stored.parameters()),
        "quantized_parameters": sum(math.prod(weight.shape) for weight in weights.values()),
        "velocity": velocity,
        "tuning": {"steps": request.tuning.steps, "error_before": tuned.error_before, "error_after": tuned.error_after,
                   "curve": [list(point) for point in tuned.curve]},
        "components": component_sizes(request, stored, root), "measure": plan.measure, "curve": list(plan.curve),
        "layers": layers,
        "pictures": [{"prompt": prompt, "seed": seed} for seed, prompt in enumerate(prompts_to_draw(request))],
        "settings": request.settings(),
    }  # fmt: skip


def measure_velocity(stored: DiT, outcome: Outcome) -> dict[str, float]:
    """The error and PSNR of the velocity before and after tuning, on points of the unquantized network."""
    after = velocity_error(stored, outcome.points, outcome.conditions)
    errors = {"before": after if outcome.error_before is None else outcome.error_before, "after": after}
    found = {f"error_{when}": error for when, error in errors.items()}
    found |= {f"psnr_{when}_db": round(velocity_psnr(error, outcome.points), 3) for when, error in errors.items()}
    return found


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


def prompts_to_draw(request: QuantizeRequest) -> tuple[str, ...]:
    """The checkpoint's first prompts; none where drawing would take long."""
    return () if request.is_large else request.checkpoint.config.prompts[:4]


def draw_column(name: str, request: QuantizeRequest, model: DiT) -> dict[str, list[np.ndarray]]:
    """Pictures of a model under a name, at the same seeds as any other's; nothing where none are drawn."""
    prompts = prompts_to_draw(request)
    if not prompts:
        return {}
    conditions, decoder = encode_prompts(request.checkpoint, prompts), request.checkpoint.decoder()
    rows = range(1, len(prompts) + 1)
    return {name: draw_rows(model, decoder, conditions, rows, sampling_of(request.checkpoint, request.resolution), 0)}
