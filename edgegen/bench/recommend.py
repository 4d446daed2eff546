"""Which tier, bits and back end suit a device, a time and a memory; every figure here is predicted."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgegen.backends.registry import find_backend
from edgegen.bench.count_module import program_of_component
from edgegen.bench.memory import Memory, network_memory, network_program, pipeline_memory, predict_memory
from edgegen.bench.parts import is_drawn, is_foreign
from edgegen.bench.picture import Runs, picture_time, runs_of_own, runs_of_picture
from edgegen.bench.predict import CannotPredict, Prediction
from edgegen.bundle import Bundle
from edgegen.callbacks import Report
from edgegen.errors import InputError
from edgegen.graph.operations import Program
from edgegen.model.autoencoder import Decoder
from edgegen.model.checkpoint_config import CheckpointConfig
from edgegen.model.elastic import skeleton
from edgegen.model.text import TextEncoders
from edgegen.rewrite.build import decoder_component, text_component, transformer_component
from edgegen.rewrite.component import Component, Form
from edgegen.target import BackendTarget, Device, Tier

PICTURE, ONE_RUN = "a picture", "one run"  # what a time is of
PALETTE_BITS = 4.3  # the average of the paper's recipe, most layers 4 bits, the most sensitive 8
SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "min": 60.0}
BYTES = {"": 1e9, "gb": 1e9, "mb": 1e6, "gib": 2.0**30, "mib": 2.0**20}


@dataclass(frozen=True)
class Storage:
    """How the transformer's weights are kept: bits in the file, bits in memory as the runtime unfolds them, and the
    arithmetic of its products; the other components keep the back end's own precision.
    """

    bits: float
    resident_bits: float
    compute: str


@dataclass(frozen=True)
class Option:
    """A way to run the model on the device: what a whole picture takes, or one run of a network that is alone, or why
    nobody can say.
    """

    tier: str
    width: float
    backend: str
    bits: float
    time: Prediction | None
    memory: Memory | None
    cannot: str = ""
    of: str = PICTURE
    runs: Runs = field(default_factory=dict)  # of each network, in that time

    def too_much(self, budget: float | None, memory: float | None) -> list[str]:
        """Why the option does not fit a budget in seconds and a memory in bytes; empty when it does."""
        if self.time is None or self.memory is None:
            return [self.cannot]
        reasons = []
        if budget is not None and self.time.milliseconds > 1e3 * budget:
            reasons.append(f"{self.of} takes {self.time}, more than {budget:g} s")
        if memory is not None and self.memory.peak > memory:
            reasons.append(f"it needs {self.memory}, more than {memory / 1e9:g} GB")
        return reasons

    def doubts(self, budget: float | None, memory: float | None) -> list[str]:
        """What of a fitting option may still be too much, within its intervals."""
        assert self.time is not None and self.memory is not None
        found = []
        if budget is not None and self.time.high > 1e3 * budget:
            found.append(f"its time may exceed {budget:g} s")
        if memory is not None and self.memory.to_dict()["high"] > memory:
            found.append(f"its memory may exceed {memory / 1e9:g} GB")
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "tier": self.tier,
            "width": self.width,
            "backend": self.backend,
            "bits": self.bits,
            "time_of": self.of,
            "runs": dict(self.runs),
            "time_ms": None if self.time is None else self.time.to_dict(),
            "memory": None if self.memory is None else self.memory.to_dict(),
            "cannot_predict": self.cannot,
            "source": "predicted",
        }


@dataclass(frozen=True)
class Advice:
    """The options of a device, best first among those that fit: the widest, then the most bits, then the fastest."""

    device: Device
    budget: float | None
    memory: float | None
    memory_note: str
    fitting: tuple[Option, ...]
    others: tuple[Option, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "device": self.device.name,
            "budget_s": self.budget,
            "memory_bytes": self.memory,
            "memory_note": self.memory_note,
            "source": "predicted",
            "fitting": [o.to_dict() | {"doubts": o.doubts(self.budget, self.memory)} for o in self.fitting],
            "others": [o.to_dict() | {"reasons": o.too_much(self.budget, self.memory)} for o in self.others],
        }


def storages(target: BackendTarget) -> tuple[Storage, ...]:
    """The ways a back end keeps weights, plain first."""
    plain = Storage(16, 16, "float16") if target.precision == "float16" else Storage(32, 32, "float32")
    resident = find_backend(target.name).palette_bits(target)
    return plain, Storage(PALETTE_BITS, resident, target.activations)


def parse_quantity(text: str, units: dict[str, float], what: str, example: str) -> float:
    """'1.5GB' -> 1.5e9, by a table of units; zero, negative and anything else is an error."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([a-z]*)", text.strip().lower())
    value = float(match[1]) * units[match[2]] if match and match[2] in units else math.nan
    if not 0 < value < math.inf:
        raise InputError(f"{what} {text!r} is not a quantity above 0.", f"Write it as {example}.")
    return value


def parse_seconds(text: str) -> float:
    return parse_quantity(text, SECONDS, "budget", "3s or 800ms")


def parse_bytes(text: str) -> float:
    return parse_quantity(text, BYTES, "memory", "1.5GB or 800MB")


# ---- options --------------------------------------------------------------------------------------------------------


def advise(options: Sequence[Option], device: Device, budget: float | None, memory: float | None) -> Advice:
    """Sorts options by whether they fit; without a memory limit, that of the device, as far as it is known."""
    limit, note = (memory, "as asked") if memory is not None else device_memory(device)
    fitting = [option for option in options if not option.too_much(budget, limit)]
    fitting.sort(key=lambda o: (-o.width, -o.bits, o.time.milliseconds if o.time else math.inf))
    others = [option for option in options if option not in fitting]
    return Advice(device, budget, limit, note, tuple(fitting), tuple(others))


def device_memory(device: Device) -> tuple[float | None, str]:
    """Bytes one app may use, with their source; where that is not known, all the memory, which no app gets."""
    if device.app_memory_gb:
        return 1e9 * device.app_memory_gb.value, f"what one app may use; {device.app_memory_gb.source}"
    if device.memory_gb:
        return 1e9 * device.memory_gb.value, (
            "what one app may use is not known; assumed is all of the device's, which no app gets. Give --memory"
        )
    return None, (
        "what one app may use is not known, nor what the device has; nothing is refused for its memory. Give --memory"
    )


def options_of_bundle(
    bundle: Bundle, device: Device, backends: Sequence[str] = (), report: Report = lambda line: None
) -> list[Option]:
    """The back ends of a bundle, or some of them, as it is."""
    m, found = bundle.manifest, []
    for backend in [b for b in bundle.backends if not backends or b in backends]:
        report(f"reading {backend}")
        programs = {name: network_program(bundle, name, b) for name, b in bundle.networks if b == backend}
        memory = {name: network_memory(bundle, name, backend, program) for name, program in programs.items()}
        named = (m.tier, m.width, backend, m.bits, programs, device, memory)
        try:
            found.append(option(*named, *asked_runs(bundle, backend, programs)))
        except CannotPredict as error:
            found.append(Option(m.tier, m.width, backend, m.bits, None, None, f"{error.message} {error.remedy}"))
    return found


def asked_runs(bundle: Bundle, backend: str, programs: Mapping[str, Program]) -> tuple[Runs, str]:
    """How often each network runs in what is judged, and what that is: a picture, or one run of a lone network."""
    if is_foreign(bundle) and not is_drawn(bundle):
        return dict.fromkeys(programs, 1), ONE_RUN
    return runs_of_picture(bundle, backend), PICTURE


def options_of_config(
    config: CheckpointConfig,
    tiers: Sequence[Tier],
    device: Device,
    backends: Sequence[str] = (),
    report: Report = lambda line: None,
) -> list[Option]:
    """Every tier, back end (or some) and storage of a model that need not exist yet."""
    found = []
    for tier in tiers:
        if tier.width not in config.transformer.widths:
            continue
        for backend in [b for b in backends or tier.default_backends if b in tier.backends]:
            target = tier.backend(backend)
            report(f"counting {tier.name} for {backend}")
            programs = {part.name: program_of_component(part) for part in components(config, tier, target)}
            for storage in storages(target):
                memory = {
                    name: component_memory(name, program, backend, storage, target)
                    for name, program in programs.items()
                }
                found.append(
                    option(
                        tier.name,
                        tier.width,
                        backend,
                        storage.bits,
                        programs,
                        device,
                        memory,
                        runs_of_own(config.sampler.steps, config.sampler.guidance),
                        storage={"transformer": storage},
                    )
                )
    return found


def component_memory(name: str, program: Program, backend: str, storage: Storage, target: BackendTarget) -> Memory:
    """The peak of a component counted in float32: its weights as stored, its activations in the target's precision."""
    own_bits = 16 if target.precision == "float16" else 32
    bits = storage.resident_bits if name == "transformer" else own_bits
    parameters = sum(tensor.elements for tensor in program.weights.values())
    return predict_memory(program, backend, round(parameters * bits / 8), own_bits / 32)


def components(config: CheckpointConfig, tier: Tier, target: BackendTarget) -> Iterator[Component]:
    """The rewritten components of a model without weights, on the meta device."""
    import torch

    form = Form(target.attention, target.query_chunk, target.operations)
    latent = config.latent_size(tier.resolution or config.resolution)
    word, byte = (part.length if part else None for part in (config.text.word, config.text.byte))
    tokens = (word or 0) + (byte or 0)
    with torch.device("meta"):
        text, decoder = TextEncoders(config.text), Decoder(config.autoencoder)
    yield text_component(text, word, byte, form)
    yield transformer_component(skeleton(config.transformer.at(tier.width)), latent, tokens, form)
    yield decoder_component(decoder, latent, form)


def option(
    tier: str,
    width: float,
    backend: str,
    bits: float,
    programs: Mapping[str, Program],
    device: Device,
    memory: Mapping[str, Memory],
    runs: Runs,
    of: str = PICTURE,
    storage: Mapping[str, Storage] = {},  # noqa: B006
) -> Option:
    """One option, with the time and the peak of a whole picture, or of one run."""
    missing = [name for name in runs if name not in programs]
    if missing:
        return Option(tier, width, backend, bits, None, None, f"it has no {' and no '.join(missing)}", of)
    try:
        time = picture_time(programs, device, backend, runs, storage)
    except CannotPredict as error:
        return Option(tier, width, backend, bits, None, None, f"{error.message} {error.remedy}", of)
    return Option(tier, width, backend, bits, time, pipeline_memory(memory), of=of, runs=runs)
