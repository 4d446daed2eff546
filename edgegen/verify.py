"""The numerics gate: every artifact against the original PyTorch modules in fp32, on inputs of real trajectories."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from edgegen.backends.registry import find_backend
from edgegen.bundle import COMPONENTS, VERIFY, Artifact, Bundle, load_bundle
from edgegen.callbacks import Advance, ArrayFunction, Report, advance_of
from edgegen.errors import EdgegenError, InputError, VerificationError, unknown
from edgegen.files import write_json
from edgegen.manifest import ForeignManifest
from edgegen.model.checkpoint import load_checkpoint
from edgegen.model.random_checkpoint import reopen
from edgegen.model.text import TokenIds
from edgegen.pipeline.artifact import Chain, open_chain, open_network
from edgegen.pipeline.between import Between, blocks_told, laid_out
from edgegen.pipeline.cases import read_cases
from edgegen.pipeline.draw import denoise, draw
from edgegen.pipeline.networks import ArtifactNetworks, Condition, Networks, features, id_feed
from edgegen.pipeline.torch import TorchNetworks
from edgegen.runtime.threads import LARGE, threads_for
from edgegen.strict_json import read_json

MAX_DB = 200.0  # stands for equality; -200 for values that are not finite
PICTURE = "picture"  # the row of a picture after a whole trajectory
HARD_PROMPTS = ("", "zwei Äpfel & 🍎!", "a small red car next to a very large green tree under a yellow sun " * 4)

Arrays = dict[str, np.ndarray]
Call = tuple[np.ndarray, float, Condition, np.ndarray, Arrays]  # latent, sigma, condition, velocity, values between


@dataclass(frozen=True)
class Row:
    """One line of verify.json: the worst over `inputs` inputs and all outputs."""

    component: str
    backend: str
    evaluator: str
    psnr_db: float
    max_abs: float  # largest absolute difference
    finite: bool
    floor_db: float
    passed: bool
    inputs: int
    tier: str = ""

    def reason(self) -> str:
        """Why it does not pass."""
        if not self.finite:
            return f"{self.component} on {self.backend} gave values that are not finite"
        return f"{self.component} on {self.backend} reached {self.psnr_db:.1f} dB, its floor is {self.floor_db:g} dB"

    def of(self, tier: str) -> Row:
        """The row as one of a tier."""
        return replace(self, tier=tier)


@dataclass(frozen=True)
class Case:
    """Inputs of a component by name, what the original gives for them and, where a component is in chunks, what it has
    between them (pipeline/between.py).
    """

    feed: Arrays
    expected: Arrays
    between: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """Cases by component, and the picture (1, 3, H, W) of `prompt` from noise `seed`."""

    cases: dict[str, list[Case]]
    prompt: str
    seed: int
    picture: np.ndarray | None


def psnr(reference: np.ndarray, value: np.ndarray, peak: float | None = None) -> float:
    """Peak signal-to-noise ratio in dB over all elements, between -200 and 200.

    `peak` is the largest |reference| unless given (1 for pictures). 200 stands for equality, -200 for values that are
    not finite or of another shape, so that a result is always a number that can be compared and stored.
    """
    reference, value = np.asarray(reference, np.float64), np.asarray(value, np.float64)
    if not np.isfinite(reference).all():
        raise EdgegenError("the reference is not finite: there is nothing to compare with.")
    if reference.shape != value.shape or not np.isfinite(value).all():
        return -MAX_DB
    error = float(np.sqrt(np.mean(np.square((reference - value).ravel())))) if value.size else 0.0
    if error == 0:
        return MAX_DB
    peak = float(np.abs(reference).max()) if peak is None else peak
    return float(np.clip(20 * (np.log10(peak) - np.log10(error)), -MAX_DB, MAX_DB)) if peak > 0 else -MAX_DB


def make_reference(
    networks: TorchNetworks,
    shape: Sequence[int],
    sigmas: Sequence[float],
    guidance: float,
    prompts: Sequence[str],
    large: bool,
    picture: bool = True,
    seed: int = 0,
    between: Sequence[str] = (),
    components: Collection[str] = COMPONENTS,
    advance: Advance = lambda done, of: None,
) -> Reference:
    """Runs the original along the trajectories of a few prompts and keeps what each network of `components` was given
    and gave.

    Latents are taken at 4 sigmas spread over each of 2 trajectories; a large model takes two steps, unguided, and gives
    the latent of the second. `between` names values inside the transformer that are kept too. `advance` is told of
    every block of the transformer.
    """
    drawn, spread = (1, 1) if large else (2, 4)
    if large and not picture:
        sigmas, guidance = [sigmas[0], sigmas[len(sigmas) // 2], 0.0], 1.0
    transformer: list[Case] = []
    decoder: list[Case] = []
    size = networks.checkpoint.config.transformer.time_features
    calls = range((len(sigmas) - 1) * (1 if guidance == 1 else 2))
    chosen, inside = spread_over(calls, spread), Between(networks.transformer, between)
    with blocks_told(networks.transformer, drawn * len(calls), advance):
        for number, prompt in enumerate(prompts[:drawn] if set(components) != {"text_encoder"} else ()):
            recorder = Recorder(networks, chosen, inside)
            steps = list(denoise(recorder, prompt, shape, sigmas, guidance, seed + number))
            transformer += [velocity_case(call, size) for call in recorder.calls]
            latents = (steps[-1].latent, steps[len(steps) // 2].predicted) if "decoder" in components else ()
            decoder += [decoder_case(networks, latent) for latent in latents]
    told = (*prompts[:4], *HARD_PROMPTS) if "text_encoder" in components else ()
    text = [text_case(networks, prompt) for prompt in told]
    cases = {"text_encoder": text, "transformer": transformer, "decoder": decoder}
    return Reference(cases, prompts[0], seed, decoder[0].expected["image"] if picture else None)


class Recorder:
    """Networks that keep some calls of the velocity, by their number."""

    def __init__(self, networks: Networks, chosen: Collection[int], inside: Between):
        self.networks, self.tokenizers = networks, networks.tokenizers
        self.chosen, self.inside, self.count = chosen, inside, 0
        self.calls: list[Call] = []

    def velocity(self, latent: np.ndarray, sigma: float, condition: Condition) -> np.ndarray:
        number, self.count = self.count, self.count + 1
        if number not in self.chosen:
            return self.networks.velocity(latent, sigma, condition)
        with self.inside.watching(condition) as found:
            made = self.networks.velocity(latent, sigma, condition)
        self.calls.append((latent, sigma, condition, made, found))
        return made

    def encode(self, ids: TokenIds) -> Condition:
        return self.networks.encode(ids)

    def decode(self, latent: np.ndarray) -> np.ndarray:
        return self.networks.decode(latent)


def spread_over(items: Sequence, count: int) -> list:
    """`count` items from first to last, evenly spread; one is the last."""
    if count == 1:
        return [items[-1]]
    return [items[i] for i in sorted({round(i) for i in np.linspace(0, len(items) - 1, count)})]


def velocity_case(call: Call, size: int) -> Case:
    latent, sigma, condition, velocity, between = call
    feed = {"latent": latent, "timestep_features": features(sigma, size), **condition}
    return Case(feed, {"velocity": velocity}, between)


def decoder_case(networks: Networks, latent: np.ndarray) -> Case:
    return Case({"latent": latent}, {"image": networks.decode(latent)})


def text_case(networks: Networks, prompt: str) -> Case:
    ids = networks.tokenizers.encode([prompt])
    return Case(id_feed(ids), networks.encode(ids))


@dataclass
class Worst:
    """The worst output of the worst case."""

    psnr_db: float = MAX_DB
    max_abs: float = 0.0
    finite: bool = True

    def take_(self, expected: np.ndarray, made: np.ndarray) -> None:
        self.psnr_db = min(self.psnr_db, psnr(expected, made))
        self.finite = self.finite and bool(np.isfinite(made).all())
        self.max_abs = max(self.max_abs, largest_difference(expected, made))

    def row(self, component: str, backend: str, floor_db: float, inputs: int) -> Row:
        return row(component, backend, self.psnr_db, self.max_abs, self.finite, floor_db, inputs)


def compare(run: ArrayFunction, cases: Iterable[Case], component: str, backend: str, floor_db: float) -> Row:
    """Runs an artifact on every case; the worst output of the worst case counts."""
    worst, count = Worst(), 0
    for case in cases:
        made = run(case.feed)
        for name, expected in case.expected.items():
            if name not in made:
                raise InputError(f"{component} on {backend} has no output {name}.", "Export the bundle again.")
            worst.take_(expected, made[name])
        count += 1
    return worst.row(component, backend, floor_db, count)


def compare_chain(chain: Chain, cases: Sequence[Case], component: str, backend: str, floor_db: float) -> list[Row]:
    """Runs the programs of a component in order on every case: a row for each by what it gives, and one for the end."""
    worst = {name: Worst() for name in (*(program.name for program in chain.programs), component)}
    for case in cases:
        made = chain.run(case.feed, partial(judge_, worst, case))
        for name, expected in case.expected.items():
            worst[component].take_(expected, made[name])
    return [found.row(name, backend, floor_db, len(cases)) for name, found in worst.items()]


def judge_(worst: Mapping[str, Worst], case: Case, program: Artifact, given: Arrays) -> None:
    """Compares what a program gives with what the original has there."""
    for name, made in given.items():
        expected = case.expected[name] if name in case.expected else laid_out(case.between[name], made.shape)
        worst[program.name].take_(expected, made)


def largest_difference(expected: np.ndarray, made: np.ndarray) -> float:
    """The largest absolute difference; 0 where there is no finite one, for JSON has no infinity."""
    if expected.shape != made.shape:
        return 0.0
    difference = np.abs(np.asarray(expected, np.float64) - made)
    difference = difference[np.isfinite(difference)]
    return float(difference.max()) if difference.size else 0.0


def row(
    component: str, backend: str, psnr_db: float, max_abs: float, finite: bool, floor_db: float, inputs: int
) -> Row:
    passed = finite and inputs > 0 and psnr_db >= floor_db
    return Row(
        component,
        backend,
        find_backend(backend).evaluator(),
        round(psnr_db, 3),
        max_abs,
        finite,
        floor_db,
        passed,
        inputs,
    )


def compare_picture(
    networks: Networks,
    backend: str,
    reference: Reference,
    shape: Sequence[int],
    sigmas: Sequence[float],
    guidance: float,
    floor_db: float,
) -> tuple[Row, np.ndarray]:
    """Draws the reference's picture with artifacts, and compares it at peak 1; returns the picture too."""
    if reference.picture is None:
        raise EdgegenError("the reference has no picture to compare with.")
    picture = draw(networks, reference.prompt, shape, sigmas, guidance, reference.seed)
    decibels = psnr(reference.picture, picture, peak=1.0)
    finite = bool(np.isfinite(picture).all())
    largest = largest_difference(reference.picture, picture)
    return row(PICTURE, backend, decibels, largest, finite, floor_db, 1), picture


def verify_network(bundle: Bundle, name: str, backend: str, reference: Reference) -> list[Row]:
    """The row of one component on one back end; of one in chunks, a row for each and one for all."""
    floors = bundle.manifest.floors_db
    floor, tier = floors.get(f"{backend}/{name}", floors[backend]), bundle.manifest.tier
    chain = open_chain(bundle, name, backend)
    if len(chain.programs) == 1:
        return [compare(chain.run, reference.cases[name], name, backend, floor).of(tier)]
    return [found.of(tier) for found in compare_chain(chain, reference.cases[name], name, backend, floor)]


def verify_all(bundle: Bundle, reference: Reference, report: Report = lambda line: None) -> list[Row]:
    """The rows of every component, and one for the picture of every back end that has all three networks."""
    rows = []
    for name, backend in bundle.networks:
        report(f"verifying {name} on {backend}")
        rows += verify_network(bundle, name, backend, reference)
    for backend in bundle.backends:
        if reference.picture is not None and is_whole(bundle, backend):
            report(f"drawing a picture with {backend}")
            rows.append(verify_picture(bundle, backend, reference)[0])
    return rows


def verify_picture(bundle: Bundle, backend: str, reference: Reference) -> tuple[Row, np.ndarray]:
    """The row of a picture drawn by the artifacts of a back end, and the picture (1, 3, H, W)."""
    m = bundle.manifest
    found, picture = compare_picture(
        ArtifactNetworks(bundle, backend),
        backend,
        reference,
        m.latent_shape,
        m.sigmas,
        m.guidance,
        m.floors_db[PICTURE],
    )
    return found.of(m.tier), picture


def is_whole(bundle: Bundle, backend: str) -> bool:
    """Whether a back end has all three of our own networks, which is what it takes to draw."""
    if isinstance(bundle.manifest, ForeignManifest):  # drawn by its own pipeline, whatever its networks are named
        return False
    has = {artifact.network for artifact in bundle.manifest.components if artifact.backend == backend}
    return has >= set(COMPONENTS)


def require(rows: Iterable[Row], remedy: str) -> None:
    """Raises VerificationError that names every row below its floor."""
    failed = [row.reason() for row in rows if not row.passed]
    if failed:
        raise VerificationError(f"verification failed: {'; '.join(failed)}.", remedy)


@dataclass(frozen=True)
class Verification:
    """The rows of a bundle that was verified anew."""

    bundle: str
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        return bool(self.rows) and all(row.passed for row in self.rows)

    def require(self) -> None:
        """Raises VerificationError that names every row below its floor."""
        require(self.rows, "Export the bundle again.")

    def to_dict(self) -> dict:
        return {"bundle": self.bundle, "passed": self.passed, "verify": [asdict(row) for row in self.rows]}


def write_rows(root: Path, rows: Iterable[Row]) -> None:
    """verify.json."""
    write_json(root / VERIFY, [asdict(row) for row in rows])


def read_rows(root: Path) -> list[dict]:
    """The rows of verify.json; an unreadable file is an error that names it."""
    rows = read_json(root / VERIFY, "Export the bundle again.")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{root / VERIFY} does not hold a list of rows.", "Export the bundle again.")
    return rows


def verify_folder(
    folder: Path, checkpoint: Path | None = None, backends: Sequence[str] = (), report: Report = lambda line: None
) -> Verification:
    """Verifies a bundle on disk anew against the checkpoint it was made of, or the one in a folder."""
    bundle = load_bundle(folder)
    for backend in backends:
        if backend not in bundle.backends:
            raise unknown("back end", backend, bundle.backends)
    rows = [row for tier in bundle.tiers for row in verify_tier(with_backends(tier, backends), checkpoint, report)]
    return Verification(str(folder), tuple(rows))


def with_backends(bundle: Bundle, backends: Sequence[str]) -> Bundle:
    """The bundle with the artifacts of some of its back ends; of all if none is named."""
    m = bundle.manifest
    chosen = tuple(a for a in m.components if not backends or a.backend in backends)
    return replace(bundle, manifest=replace(m, components=chosen))


def verify_tier(bundle: Bundle, checkpoint: Path | None, report: Report) -> list[Row]:
    """The rows of one tier, against the checkpoint it was made of, or the one in a folder."""
    m = bundle.manifest
    if isinstance(m, ForeignManifest):
        if checkpoint is not None:
            raise InputError(f"{bundle.root} is verified on the cases that it holds.", "Leave --checkpoint out.")
        return verify_cases(bundle, report)
    networks = TorchNetworks(load_checkpoint(checkpoint) if checkpoint else reopen(m.checkpoint), m.width)
    report("running the original in PyTorch")
    parameters = sum(p.numel() for p in networks.transformer.parameters())
    whole = any(is_whole(bundle, backend) for backend in bundle.backends)
    with threads_for(parameters):
        reference = make_reference(
            networks, m.latent_shape, m.sigmas, m.guidance, m.prompts, parameters > LARGE, whole,
            between=values_between(bundle), components={a.network for a in m.components}, advance=advance_of(report),
        )  # fmt: skip
        return verify_all(bundle, reference, report)


def values_between(bundle: Bundle) -> list[str]:
    """The names of what programs of a bundle give to others."""
    chains = (bundle.programs(name, backend) for name, backend in bundle.networks)
    return list(dict.fromkeys(spec.name for chain in chains for program in chain[:-1] for spec in program.outputs))


def verify_cases(bundle: Bundle, report: Report) -> list[Row]:
    """A row for every foreign network and back end, on the cases that the bundle holds."""
    rows, floors = [], bundle.manifest.floors_db
    for name, backend in bundle.networks:
        report(f"verifying {name} on {backend}")
        cases = [Case(feed, expected) for feed, expected in read_cases(bundle, name)]
        floor = floors.get(f"{backend}/{name}", floors[backend])
        rows.append(compare(open_network(bundle, name, backend), cases, name, backend, floor))
    return rows
