"""The front door for Python: one function for each thing edgegen does; each command of the CLI calls one of them.

Paths may be strings. A checkpoint is a folder, one that `load_checkpoint` opened, or None for the bundled one; a tier
is a name, a .toml file or one that `load_tier` read. `progress` is True (shown on stderr, or in a notebook), False, or
an object that is called with a line as a stage begins and whose `advance(done, of)` is told of steps.

While artifacts are written, what libraries print on the process's stdout and stderr is kept away, `tempfile` points
into the unfinished bundle, and PyTorch may be set to one thread: all three are of the whole process, are put back
afterwards, and let one such stage run at a time, from whatever thread it is called.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from edgegen.bundle import Bundle
from edgegen.bundle import load_bundle as read_bundle
from edgegen.chunking import Chunking
from edgegen.errors import InputError
from edgegen.export import Result, export
from edgegen.finished import finished
from edgegen.foreign.export import ForeignResult
from edgegen.generate import Drawn, PictureRequest, generate
from edgegen.inspection import Inspection, inspect_folder
from edgegen.model.checkpoint import Checkpoint, bundled_folder
from edgegen.model.checkpoint import load_checkpoint as read_checkpoint
from edgegen.plan import Plan, plan_tiers
from edgegen.show import Progress
from edgegen.target import Device, Tier, load_device
from edgegen.target import load_tier as read_tier
from edgegen.verify import Verification, verify_folder

AnyPath: TypeAlias = str | Path
AnyCheckpoint: TypeAlias = Checkpoint | AnyPath | None
AnyTier: TypeAlias = Tier | AnyPath


class Watcher(Protocol):
    """What is told of long work."""

    def __call__(self, line: str) -> None: ...

    def advance(self, done: int, of: int) -> None: ...


class Silent:
    """Tells nobody."""

    def __call__(self, line: str) -> None: ...

    def advance(self, done: int, of: int) -> None: ...


@contextmanager
def watched(progress: Watcher | bool) -> Iterator[Watcher]:
    """What a function reports to."""
    if progress is True:
        with Progress() as shown:
            yield shown
    else:
        yield progress or Silent()


def load_checkpoint(folder: AnyPath | None = None) -> Checkpoint:
    """A checkpoint folder (config.json and safetensors); the bundled one if none is given.

    Raises InputError for what is missing, of another version, a pickle, or of shapes that do not fit.
    """
    return read_checkpoint(Path(folder) if folder else bundled_folder())


def load_tier(name: AnyPath) -> Tier:
    """A tier by name ("low-android", "high-phone", "full"), or from a .toml file; InputError suggests the closest."""
    return read_tier(str(name))


def load_bundle(folder: AnyPath, check: bool = True) -> Bundle:
    """A bundle on disk; with `check` every file's sha256 and size are those of its manifest, else InputError."""
    return read_bundle(Path(folder), check)


def plan_export(
    checkpoint: AnyCheckpoint = None,
    tier: AnyTier | Sequence[AnyTier] = "low-android",
    backends: Sequence[str] = (),
    components: Sequence[str] = (),
    resolution: tuple[int, int] | None = None,
    out: AnyPath | None = None,
    overwrite: bool = False,
    resume: bool = False,
    chunks: int | None = None,
    chunk_mib: int | None = None,
) -> Plan:
    """What an export would write, predicted, and nothing is written; InputError for all that can be known before.

    tier: of several the bundle has the first whole, and of each other its transformer. backends: of the (first) tier if
    empty. components: all of text_encoder, transformer, decoder if empty. resolution: pixels
    (width, height), the tier's or the checkpoint's own if None. out: out/<model>/<tier> if None. chunks: the
    transformer in so many Core ML programs; chunk_mib: in as few as have at most so many MiB of weights each; what the
    tier says if neither.
    """
    return plan_tiers(
        as_checkpoint(checkpoint),
        [as_tier(each) for each in listed(tier)],
        backends,
        components,
        resolution,
        Path(out) if out else None,
        overwrite,
        resume,
        Chunking(chunks, chunk_mib),
    )


def export_bundle(
    checkpoint: AnyCheckpoint = None,
    tier: AnyTier | Sequence[AnyTier] = "low-android",
    backends: Sequence[str] = (),
    components: Sequence[str] = (),
    resolution: tuple[int, int] | None = None,
    out: AnyPath | None = None,
    overwrite: bool = False,
    bits: float | None = None,
    tune_steps: int = 2000,
    resume: bool = False,
    progress: Watcher | bool = True,
    chunks: int | None = None,
    chunk_mib: int | None = None,
) -> Result:
    """Slices, rewrites, writes and verifies a bundle, and draws a sample; it appears whole or not at all.

    bits: palettize the transformer first to so many bits a weight on average, tuned for `tune_steps` steps; that
    checkpoint is kept beside the bundle. resume: go on with the artifacts that an interrupted export of the same
    settings has finished. The rest is as in `plan_export`. Raises InputError before any work, and
    VerificationError where an artifact differs from PyTorch by more than its floor (PSNR in dB) allows.
    """
    model, chosen = as_checkpoint(checkpoint), [as_tier(each) for each in listed(tier)]
    if bits is not None and len(chosen) > 1:
        raise InputError("--bits goes with one tier: a quantized checkpoint has one width.", "Export each on its own.")
    how = (overwrite, resume, chunks, chunk_mib)
    plan = plan_export(model, chosen, backends, components, resolution, out, *how)
    with watched(progress) as watcher:
        if bits is not None:
            folder = plan.out.with_name(f"{model.config.name}-{chosen[0].width:g}-{bits:g}")
            quantize_checkpoint(
                model, folder, chosen[0].width, bits, tune_steps=tune_steps, resume=True, overwrite=overwrite,
                progress=watcher,
            )  # fmt: skip
            plan = plan_export(folder, chosen, backends, components, resolution, plan.out, *how)
        return (finished(plan) if resume else None) or export(plan, watcher)


def export_module(
    module: Any,
    example_inputs: Mapping[str, Any],
    tier: AnyTier = "high-phone",
    constant: Sequence[str] = (),
    backends: Sequence[str] = (),
    out: AnyPath | None = None,
    overwrite: bool = False,
    name: str = "network",
    bits: float | None = None,
    progress: Watcher | bool = True,
    resume: bool = False,
    chunks: int | None = None,
    chunk_mib: int | None = None,
) -> ForeignResult:
    """A verified bundle of any eager torch.nn.Module, recorded as `module(**example_inputs)`; whole or not at all.

    Tensors of `example_inputs` vary, but for those named in `constant`; shapes are fixed. It is judged in fp32 on
    fresh inputs of the same shapes. bits: palettize its layers to so many a weight on average. Raises InputError where
    the module decides by a value of a varying tensor, and VerificationError where an artifact differs by more than its
    floor (PSNR in dB) allows.
    """
    from edgegen.chunking import Chunking
    from edgegen.foreign import export as work

    with watched(progress) as watcher:
        return work.export_module(
            module, example_inputs, as_tier(tier), name, constant, backends, Path(out) if out else None, overwrite,
            bits, watcher, Chunking(chunks, chunk_mib), resume,
        )  # fmt: skip


def export_file(
    reference: str,
    inputs: str = "",
    constant: Sequence[str] = (),
    tier: AnyTier = "high-phone",
    backends: Sequence[str] = (),
    out: AnyPath | None = None,
    overwrite: bool = False,
    bits: float | None = None,
    progress: Watcher | bool = True,
    resume: bool = False,
    chunks: int | None = None,
    chunk_mib: int | None = None,
) -> ForeignResult:
    """`export_module` of what `FILE.py:FUNCTION` makes; the user's own file is run. inputs: `name=1x4x8x8:float32`."""
    from edgegen.chunking import Chunking
    from edgegen.foreign.export import export_sources, targets_of
    from edgegen.foreign.module_file import load_module

    targets_of(as_tier(tier), backends)  # what is not installed is said before the file is run
    source = load_module(reference, inputs, tuple(constant))
    with watched(progress) as watcher:
        return export_sources(
            source.origin["name"],
            [source],
            as_tier(tier),
            backends,
            Path(out) if out else None,
            overwrite,
            bits,
            report=watcher,
            chunking=Chunking(chunks, chunk_mib),
            resume=resume,
        )


def export_folder(
    folder: AnyPath,
    tier: AnyTier = "high-phone",
    backends: Sequence[str] = (),
    components: Sequence[str] = (),
    resolution: tuple[int, int] | None = None,
    tokens: int = 0,
    out: AnyPath | None = None,
    overwrite: bool = False,
    bits: float | None = None,
    lora: AnyPath | None = None,
    lora_scale: float = 1.0,
    progress: Watcher | bool = True,
    resume: bool = False,
    chunks: int | None = None,
    chunk_mib: int | None = None,
) -> ForeignResult:
    """A verified bundle of a folder that diffusers or transformers saved: a pipeline, or one network.

    components: names of the folder's networks; all that a phone needs if empty, less text encoders that an app of the
    tier cannot hold. resolution: pixels (width, height), 1024x1024 if None. tokens: what the pipeline calls
    max_sequence_length, its own if 0. lora: weights merged into the transformer. Nothing of the folder is run.
    resume: go on with what the same export finished before it was interrupted. chunks, chunk_mib: Core ML: the
    transformer, or a lone network, in so many programs, or in as few as have so many MiB of weights or less each.
    Raises InputError for weights that do not map, shards that are missing, pickles, fp8, gguf and code of the folder's
    own.
    """
    from edgegen.chunking import Chunking
    from edgegen.foreign.export import export_sources, targets_of
    from edgegen.foreign.sources import Lora, Size, open_sources

    size, chosen = Size(*(resolution or (1024, 1024)), tokens), as_tier(tier)
    targets_of(chosen, backends)  # what is not installed is said before weights are read
    merged = Lora(Path(lora), lora_scale) if lora else None
    opened = open_sources(Path(folder), size, components, merged, chosen, backends)
    with watched(progress) as watcher:
        return export_sources(
            Path(folder).resolve().name, opened.sources, chosen, backends, Path(out) if out else None, overwrite, bits,
            Path(folder), (size.width, size.height), opened.details, watcher, Chunking(chunks, chunk_mib), resume,
        )  # fmt: skip


def is_foreign(folder: AnyPath) -> bool:
    """Whether a folder is one that diffusers or transformers saved."""
    from edgegen.foreign.folder import is_foreign as found

    return found(Path(folder))


def generate_image(
    prompt: str,
    bundle: AnyPath | None = None,
    backend: str | None = None,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    out: AnyPath | None = None,
    preview: bool = False,
    checkpoint: AnyPath | None = None,
    progress: Watcher | bool = True,
) -> Drawn:
    """Draws a picture with a bundle's artifacts and saves it; `.open()` of the result gives it as a PIL image.

    Artifacts are opened in this process, without the limits of `edgegen generate`, whose child may crash or hang.

    bundle: the newest below ./out if None. backend: the fastest here; "torch" is the original. seed: 0 to 2^63 - 1,
    the same noise on every back end. steps, guidance: the bundle's own if None. out: named after the prompt, in the
    working folder, if None. preview: also save what each step aims at. checkpoint: for the back end "torch", and for
    networks that a bundle of another project's pipeline left out. Raises InputError before any work.
    """
    where = [Path(value) if value else None for value in (bundle, out, checkpoint)]
    request = PictureRequest(prompt, where[0], backend, seed, steps, guidance, where[1], preview, where[2])
    with watched(progress) as watcher:
        return generate(request, watcher, watcher.advance)


def verify_bundle(
    bundle: AnyPath,
    backends: Sequence[str] = (),
    checkpoint: AnyPath | None = None,
    progress: Watcher | bool = True,
) -> Verification:
    """Checks a bundle's files, then runs every artifact against PyTorch in fp32 (PSNR in dB, finite first).

    Artifacts are opened in this process, without the limits of `edgegen verify`, whose child may crash or hang.
    Returns a row an artifact and one a picture; `.passed` says whether all reach their floors, `.require()` raises
    VerificationError otherwise. InputError for a bundle whose files changed.
    """
    with watched(progress) as watcher:
        return verify_folder(Path(bundle), Path(checkpoint) if checkpoint else None, backends, watcher)


def inspect_bundle(bundle: AnyPath, backends: Sequence[str] = (), progress: Watcher | bool = True) -> Inspection:
    """Operations, transposes, reshapes, parameters and bytes of every artifact, and the Neural Engine's findings.

    Artifacts are read in this process, without the limits of `edgegen inspect`: it is for bundles that are trusted.
    """
    with watched(progress) as watcher:
        return inspect_folder(Path(bundle), backends, watcher)


@dataclass(frozen=True)
class Quantized:
    """A quantized checkpoint on disk, and the report that lies beside its weights."""

    checkpoint: Path
    seconds: float
    report: dict[str, Any]  # report.json: bits, bytes by component, velocity PSNR in dB before and after tuning

    def to_dict(self) -> dict[str, Any]:
        return {"checkpoint": str(self.checkpoint), "seconds": self.seconds, **self.report}


def quantize_checkpoint(
    checkpoint: AnyCheckpoint = None,
    out: AnyPath | None = None,
    width: float = 1.0,
    bits: float | None = None,
    method: str = "palette",
    candidates: Sequence[int] = (4, 8),
    prompts: Sequence[str] = (),
    plan: AnyPath | None = None,
    measure: str = "",
    tune_steps: int = 2000,
    tune_batch: int = 16,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    progress: Watcher | bool = True,
    resolution: tuple[int, int] | None = None,
) -> Quantized:
    """Palettizes the transformer of one width: sensitivity, bits, exact clusters, tuning; verified, written whole.

    bits: average a weight, 4.3 if None, of the `candidates`. method: "palette", "int8" or "int4-group". prompts: for
    calibration, the checkpoint's own if empty. plan: a bit plan (JSON) instead of measuring. measure: the error that
    the plan keeps small, "velocity", "gradient" (the same to first order, much faster), "output" or "relative"; if
    empty "velocity", and "gradient" above 100M parameters. resolution: pixels (width, height) of the points that it is
    measured and tuned on; the checkpoint's own if None, and 256x256 above 100M parameters. out:
    out/<model>-<width>-<bits> if None. Raises InputError.
    """
    from edgegen.quantize.request import BITS, QuantizeRequest
    from edgegen.quantize.run import quantize
    from edgegen.quantize.tune import Tuning

    if bits is not None and method != "palette":
        raise InputError(f"--bits goes with --method palette, not {method}.", "Leave it out.")
    model = as_checkpoint(checkpoint)
    label = f"{bits or BITS:g}" if method == "palette" else method
    folder = Path(out) if out else Path("out") / f"{model.config.name}-{width:g}-{label}"
    request = QuantizeRequest(
        model, folder, width, method, BITS if bits is None else bits, tuple(candidates),
        prompts=tuple(prompts), plan=Path(plan) if plan else None, measure=measure,
        resolution=resolution or (0, 0), tuning=Tuning(steps=tune_steps, batch=tune_batch, seed=seed), resume=resume,
        overwrite=overwrite,
    )  # fmt: skip
    start = time.perf_counter()
    with watched(progress) as watcher:
        report = quantize(request, watcher, watcher.advance)
    return Quantized(folder, round(time.perf_counter() - start, 1), report)


def quantize_folder(
    folder: AnyPath,
    out: AnyPath | None = None,
    bits: float | None = None,
    candidates: Sequence[int] = (4, 8),
    resolution: tuple[int, int] | None = None,
    tokens: int = 0,
    overwrite: bool = False,
    tune_steps: int = 0,
    progress: Watcher | bool = True,
) -> Quantized:
    """Palettizes the transformer of a folder that diffusers saved: sensitivity, bits, exact clusters, tuning.

    bits: average a weight, 4.3 if None. out: out/<folder>-<bits> if None; a folder that diffusers loads, and that
    `export_folder` writes with these palettes. resolution, tokens: of the inputs that sensitivity is measured on,
    256x256 pixels and the pipeline's own if left out. tune_steps: of biases, norms and tables, each on one of those
    inputs. Raises InputError.
    """
    from edgegen.foreign.quantize import quantize_folder as work
    from edgegen.foreign.sources import Size
    from edgegen.quantize.request import BITS
    from edgegen.quantize.tune import Tuning

    start, average = time.perf_counter(), BITS if bits is None else bits
    where = Path(out) if out else Path("out") / f"{Path(folder).resolve().name}-{average:g}"
    with watched(progress) as watcher:
        size = Size(*(resolution or (256, 256)), tokens)
        tuning = Tuning(steps=tune_steps, warmup=max(tune_steps, 0) // 10)
        report = work(
            Path(folder), where, average, tuple(candidates), size, overwrite, watcher, tuning, watcher.advance
        )  # fmt: skip
    return Quantized(where, round(time.perf_counter() - start, 1), report)


@dataclass(frozen=True)
class Predictions:
    """Rows of `edgegen bench` for a device that is not here; every figure is predicted and has an interval."""

    device: Device
    rows: list[dict[str, Any]] = field(default_factory=list)  # as in measurements.jsonl; latency_ms may be None
    source: str = "predicted"

    def to_dict(self) -> dict[str, Any]:
        return {"source": self.source, "device": self.device.name, "rows": self.rows}


def predict_latency(
    bundle: AnyPath | Iterable[AnyPath] | None,
    device: str | Device,
    backends: Sequence[str] = (),
    components: Sequence[str] = (),
) -> Predictions:
    """Milliseconds and peak bytes of every component, and of a picture, on a device (`edgegen devices`).

    bundle: one or several; the newest below ./out if None.
    A row whose unit no published latency covers has `latency_ms` None and says why in `cannot_predict`.
    """
    from edgegen.bench.remote import predict_rows
    from edgegen.bench.session import BenchRequest

    folders = (bundle,) if isinstance(bundle, str | Path) else tuple(bundle or ())
    target = load_device(device) if isinstance(device, str) else device
    request = BenchRequest(tuple(map(Path, folders)), tuple(backends), tuple(components))
    return Predictions(target, predict_rows(target, request))


def listed(tiers: AnyTier | Sequence[AnyTier]) -> Sequence[AnyTier]:
    """One tier, or several, as several."""
    return [tiers] if isinstance(tiers, str | Path | Tier) else tiers


def as_checkpoint(value: AnyCheckpoint) -> Checkpoint:
    return value if isinstance(value, Checkpoint) else load_checkpoint(value)


def as_tier(value: AnyTier) -> Tier:
    return value if isinstance(value, Tier) else load_tier(value)
