"""manifest.json: what a bundle says of itself, in one schema with ranges and cross-checks.

A manifest may come from anywhere: nothing in it is believed, and no size in it used, before `read_manifest` is through.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated

from edgegen.backends.registry import backend_names, find_backend
from edgegen.chain import NUMBERED, check_chain, network_of, signature
from edgegen.errors import InputError, brief
from edgegen.manifest_pipeline import Prompting, check_pipeline, tokenizer_files
from edgegen.model.config import Width
from edgegen.rewrite.component import TensorSpec
from edgegen.schema import Form, Name, OneOf, Range, Sha256, Size, Text, from_values
from edgegen.strict_json import read_json

FORMAT_VERSION, FOREIGN_VERSION = 1, 2  # of our own networks; of any, which `pipeline` describes
MANIFEST = "manifest.json"
COMPONENTS = ("text_encoder", "transformer", "decoder")
ELEMENTS = 2**28  # of one tensor that goes in or out; the latent of a 16384² picture of 16 channels has 2**26
AGAIN = "Export the bundle again."

Bytes = Annotated[int, Range(0, 2**40)]
Side = Annotated[int, Range(1, 2**15)]
Decibels = Annotated[float, Range(-200, 200)]
PathInside = Annotated[str, Size(0, 512)]  # that it stays inside, bundle.py checks where the bundle is read
Short = Annotated[str, Size(0, 256)]
Program = Annotated[str, Form(rf"{'|'.join(COMPONENTS)}|{NUMBERED.pattern}", f"{', '.join(COMPONENTS)}, or a chunk")]


@dataclass(frozen=True)
class Artifact:
    """One component on one back end, or a chunk of it (chain.py); inputs are listed in call order."""

    name: Program
    backend: Name
    path: PathInside  # inside the bundle, with forward slashes
    sha256: Sha256  # of a folder, over the lines `<sha256>  <relative path>` sorted by path
    bytes: Bytes
    resident_bytes: Bytes  # of the weights as the runtime holds them, see backends/backend.py
    form: Short
    inputs: Annotated[tuple[TensorSpec, ...], Size(1, 16)]
    outputs: Annotated[tuple[TensorSpec, ...], Size(1, 16)]
    # of the runtime's session, which verification ran it with
    options: Annotated[dict[str, Short], Size(0, 16)] = field(default_factory=dict)

    @property
    def network(self) -> str:
        """The component that it is or is a chunk of."""
        return network_of(self.name)


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer and how many ids it gives: `word.json` (WordPiece) or `byte.json` ({length, offset, begin})."""

    name: Annotated[str, OneOf(("word", "byte"))]
    path: PathInside
    sha256: Sha256
    bytes: Bytes
    length: Annotated[int, Range(1, 4096)]


@dataclass(frozen=True)
class TierPart:
    """A further tier of a bundle: what is its own. The rest it shares with the bundle's first."""

    tier: Name
    width: Width
    floors_db: Annotated[dict[str, Decibels], Size(1, 256)]
    components: Annotated[tuple[Artifact, ...], Size(1, 64)]


@dataclass(frozen=True)
class Manifest:
    """What an app needs to draw a picture, and where each part came from.

    `sigmas` are the steps + 1 noise levels of the default number of steps; other numbers of steps follow from `shift`.
    `timestep_features` {size, scale, max_period, order} defines the input of that name for sigma t: cosines, then
    sines, of `scale * t * max_period^(-i / (size / 2))`. `checkpoint` names what the bundle was made of.
    """

    model: Name
    tier: Name
    width: Width
    resolution: tuple[Side, Side]  # pixels: width, height
    steps: Annotated[int, Range(1, 1000)]
    sigmas: Annotated[tuple[Annotated[float, Range(0, 1)], ...], Size(2, 1001)]
    shift: Annotated[float, Range(0, 1000, above=True)]
    guidance: Annotated[float, Range(0, 100)]
    bits: Annotated[float, Range(0, 64, above=True)]  # per stored weight
    latent_shape: Annotated[tuple[Side, ...], Size(4, 4)]  # (1, C, h, w)
    timestep_features: dict
    tokenizer: Annotated[tuple[TokenizerFile, ...], Size(0, 2)]
    prompts: Annotated[tuple[Text, ...], Size(1, 4096)]  # some to try, and what verification uses
    # by back end, "picture", and "<back end>/<component>" where one has a floor of its own
    floors_db: Annotated[dict[str, Decibels], Size(1, 256)]
    checkpoint: dict
    tool_versions: Annotated[dict[str, Short], Size(0, 256)]
    components: Annotated[tuple[Artifact, ...], Size(1, 64)]
    tiers: Annotated[tuple[TierPart, ...], Size(0, 16)] = ()  # further ones, of which an app chooses one at start
    asked: Annotated[str, Size(0, 64)] = ""  # sha256 of what was asked of the export, by which it knows its own again

    def to_dict(self) -> dict:
        return {"format_version": FORMAT_VERSION} | asdict(self)

    @property
    def files(self) -> tuple[Artifact | TokenizerFile | Prompting, ...]:
        """Everything that a bundle holds by sha256."""
        further = [artifact for part in self.tiers for artifact in part.components]
        return (*self.components, *self.tokenizer, *further)

    def at(self, tier: str) -> Manifest:
        """The manifest of one of its tiers, as if it were the only one; on a back end that the tier has, what is not
        its own is the first tier's.
        """
        part = next((part for part in self.tiers if part.tier == tier), None)
        if part is None:
            return replace(self, tiers=())
        own = {(artifact.network, artifact.backend) for artifact in part.components}
        backends = {artifact.backend for artifact in part.components}
        shared = [a for a in self.components if a.backend in backends and (a.network, a.backend) not in own]
        return replace(
            self,
            tier=tier,
            width=part.width,
            floors_db=part.floors_db,
            components=(*shared, *part.components),
            tiers=(),
        )


@dataclass(frozen=True)
class ForeignArtifact(Artifact):
    """One foreign network on one back end, or a chunk of one; its name and its inputs' are the network's own."""

    name: Name
    inputs: Annotated[tuple[TensorSpec, ...], Size(1, 64)]
    outputs: Annotated[tuple[TensorSpec, ...], Size(1, 64)]
    chunk_of: Annotated[str, Size(0, 64)] = ""  # the network that it is a program of, where there are several

    @property
    def network(self) -> str:
        """Its own name, which may end in a number, unless it is a chunk."""
        return self.chunk_of or self.name


Whole = Annotated[int, Range(0, 2**15)]


@dataclass(frozen=True)
class ForeignManifest(Manifest):
    """What a bundle of foreign networks says: `pipeline` has what the fields of our own networks cannot say.

    pipeline: kind ("network" or "pipeline"), networks {name: class, sinusoids [{name, source, size, order,
    frequencies}], cases {path, sha256, bytes}, ...}, and what manifest_pipeline.py lists. Features of a timestep t are
    the cosines and sines, in that order, of t times each frequency.
    """

    resolution: tuple[Whole, Whole]  # 0, 0 where it is not of pictures
    steps: Annotated[int, Range(0, 1000)]
    sigmas: Annotated[tuple[Annotated[float, Range(0, 1)], ...], Size(0, 1001)]
    latent_shape: Annotated[tuple[Side, ...], Size(0, 8)]
    prompts: Annotated[tuple[Text, ...], Size(0, 4096)]
    components: Annotated[tuple[ForeignArtifact, ...], Size(1, 64)]
    pipeline: dict = field(default_factory=dict)

    def to_dict(self) -> dict:
        return {"format_version": FOREIGN_VERSION} | asdict(self)

    @property
    def files(self) -> tuple[Artifact | TokenizerFile | Prompting, ...]:
        return (*super().files, *tokenizer_files(self.pipeline))


@dataclass(frozen=True)
class Cases:
    """What `pipeline.networks.NAME.cases` must hold."""

    path: PathInside
    sha256: Sha256
    bytes: Bytes


@dataclass(frozen=True)
class TimestepFeatures:
    """What `timestep_features` of a manifest must hold."""

    size: Annotated[int, Range(2, 2**14)]
    scale: Annotated[float, Range(0, 1e6, above=True)]
    max_period: Annotated[float, Range(1, 1e9, above=True)]
    order: Annotated[str, OneOf(("cos,sin",))]

    def __post_init__(self) -> None:
        if self.size % 2:
            raise InputError(f"timestep_features.size is {self.size}; it must be even: a cosine and a sine each.")


@dataclass(frozen=True)
class Origin:
    """What `checkpoint` of a manifest must hold; the seed is of random weights, the path of a folder's."""

    kind: Annotated[str, OneOf(("bundled", "folder", "random"))]
    name: Name
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    path: Annotated[str, Form(r"[^\0]{0,4096}", "a path")] = ""
    sha256: Sha256 = "0" * 64


def read_manifest(path: Path) -> Manifest:
    """Parses manifest.json; what is missing, of a wrong type, out of range or in contradiction is an error that names
    it; unknown fields are let be.
    """
    if not path.is_file():
        raise InputError(
            f"{path.parent} has no {MANIFEST}: it is no bundle, or an unfinished one.", "Make one with edgegen export."
        )
    values = read_json(path, AGAIN)
    version = values.get("format_version") if isinstance(values, dict) else None
    if version not in (FORMAT_VERSION, FOREIGN_VERSION) or isinstance(version, bool):
        raise InputError(
            f"{path}: format_version is {brief(version)}, this edgegen reads {FORMAT_VERSION} and {FOREIGN_VERSION}.",
            "Use the edgegen that wrote it, or export again.",
        )
    try:
        if version == FOREIGN_VERSION:
            foreign = from_values(ForeignManifest, values, strangers=True)
            check_foreign(foreign)
            return foreign
        manifest = from_values(Manifest, values, strangers=True)
        check_tiers(manifest)
        return manifest
    except InputError as error:
        raise InputError(f"{path}: {error.message}", AGAIN) from None


def check_tiers(manifest: Manifest) -> None:
    """Each tier of a bundle is whole, and has a name of its own."""
    names = [manifest.tier, *(part.tier for part in manifest.tiers)]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InputError(f"tiers has {name} twice.")
        check_whole(manifest.at(name))


def check_whole(manifest: Manifest) -> None:
    """Refuses a manifest whose parts contradict each other."""
    check_sigmas(manifest)
    from_values(TimestepFeatures, manifest.timestep_features, "timestep_features", strangers=True)
    from_values(Origin, manifest.checkpoint, "checkpoint", strangers=True)
    check_sizes(manifest)
    seen = set()
    for number, artifact in enumerate(manifest.components):
        where = f"components[{number}]"
        if artifact.backend not in backend_names():
            raise InputError(f"{where}: back end {artifact.backend!r} is not known to this edgegen.")
        if (artifact.name, artifact.backend) in seen:
            raise InputError(f"{where} is the second {artifact.name} for {artifact.backend}.")
        seen.add((artifact.name, artifact.backend))
        check_options(artifact, where)
    check_networks(manifest)
    for key in ("picture", *dict.fromkeys(artifact.backend for artifact in manifest.components)):
        if key not in manifest.floors_db:
            raise InputError(f"floors_db.{key} is missing.")
    names = [file.name for file in manifest.tokenizer]
    if len(set(names)) < len(names):
        raise InputError(f"tokenizer lists {names[0]} twice.")


def check_networks(manifest: Manifest) -> None:
    """Refuses a network that takes or gives what it should not, one in chunks as all of them together."""
    networks: dict[tuple[str, str], list[tuple[int, Artifact]]] = {}
    for number, artifact in enumerate(manifest.components):
        networks.setdefault((artifact.network, artifact.backend), []).append((number, artifact))
    for (name, _), numbered in networks.items():
        where, programs = f"components[{numbered[0][0]}]", [artifact for _, artifact in numbered]
        if len(programs) > 1 or programs[0].name != name:
            check_chain(programs, where, ELEMENTS)
        inputs, outputs = signature(programs)
        check_signature(manifest, replace(programs[0], name=name, inputs=inputs, outputs=outputs), where)


def check_foreign(manifest: ForeignManifest) -> None:
    """Refuses a bundle of foreign networks whose parts contradict each other, or that says nothing of a network."""
    check_pipeline(manifest.pipeline)
    networks, seen = manifest.pipeline.get("networks"), set()
    programs: dict[tuple[str, str], list[Artifact]] = {}
    for number, artifact in enumerate(manifest.components):
        where = f"components[{number}]"
        if artifact.backend not in backend_names():
            raise InputError(f"{where}: back end {artifact.backend!r} is not known to this edgegen.")
        if (artifact.name, artifact.backend) in seen:
            raise InputError(f"{where} is the second {artifact.name} for {artifact.backend}.")
        seen.add((artifact.name, artifact.backend))
        for spec in (*artifact.inputs, *artifact.outputs):
            if math.prod(spec.shape) > ELEMENTS:
                raise InputError(f"{where}.{spec.name} has {math.prod(spec.shape)} elements, the limit is {ELEMENTS}.")
        check_options(artifact, where)
        if artifact.backend not in manifest.floors_db:
            raise InputError(f"floors_db.{artifact.backend} is missing.")
        programs.setdefault((artifact.network, artifact.backend), []).append(artifact)
        entry = networks.get(artifact.network) if isinstance(networks, dict) else None
        if not isinstance(entry, dict) or not isinstance(entry.get("sinusoids"), list):
            raise InputError(f"pipeline.networks.{artifact.network}.sinusoids is missing.")
        from_values(Cases, entry.get("cases"), f"pipeline.networks.{artifact.network}.cases", strangers=True)
    for (name, backend), chain in programs.items():
        if len(chain) > 1 or chain[0].name != name:
            check_chain(chain, f"components of {backend}", ELEMENTS)


def check_sigmas(manifest: Manifest) -> None:
    """Noise levels fall from one to the next, one more than steps."""
    sigmas = manifest.sigmas
    if len(sigmas) != manifest.steps + 1:
        raise InputError(f"sigmas has {len(sigmas)} entries; {manifest.steps} steps ask for {manifest.steps + 1}.")
    if any(after >= before for before, after in pairwise(sigmas)):
        raise InputError("sigmas must fall from one to the next.")


def check_sizes(manifest: Manifest) -> None:
    """A picture is a whole number of pixels for each cell of the latent."""
    width, height = manifest.resolution
    batch, _, rows, columns = manifest.latent_shape
    if batch != 1:
        raise InputError(f"latent_shape is {list(manifest.latent_shape)}; its first must be 1.")
    if width % columns or height % rows or width // columns != height // rows:
        raise InputError(f"resolution {width}x{height} is no multiple of the latent's {columns}x{rows}.")


def check_signature(manifest: Manifest, artifact: Artifact, where: str) -> None:
    """Inputs and outputs are those of the component, of the sizes that the manifest says elsewhere."""
    width, height = manifest.resolution
    known: dict[str, tuple[int | None, ...]] = {
        "latent": manifest.latent_shape,
        "velocity": manifest.latent_shape,
        "image": (1, 3, height, width),
        "timestep_features": (1, manifest.timestep_features["size"], 1, 1),
        "text": (1, None, 1, None),
        "text_mask": (1, None, 1, 1),
        "pooled_text": (1, None, 1, 1),
        **{f"{file.name}_ids": (1, file.length) for file in manifest.tokenizer},
    }
    inputs, outputs = SIGNATURES[artifact.name]
    for side, specs, (needed, optional) in (
        ("inputs", artifact.inputs, inputs),
        ("outputs", artifact.outputs, outputs),
    ):
        names = [spec.name for spec in specs]
        if len(set(names)) < len(names) or not needed <= set(names) <= needed | optional:
            allowed = ", ".join(sorted(needed | optional))
            raise InputError(f"{where}.{side} are {brief(names)}; those of a {artifact.name} are {allowed}.")
        for spec in specs:
            check_spec(spec, known.get(spec.name), f"{where}.{side}.{spec.name}")
    if artifact.name != "decoder":
        check_text(artifact, where)


Names = tuple[frozenset[str], frozenset[str]]  # that must be there, that may be
CONDITION: Names = frozenset({"text", "text_mask"}), frozenset({"pooled_text"})
SIGNATURES: Mapping[str, tuple[Names, Names]] = {
    "text_encoder": ((frozenset(), frozenset({"word_ids", "byte_ids"})), CONDITION),
    "transformer": (
        (CONDITION[0] | {"latent", "timestep_features"}, CONDITION[1]),
        (frozenset({"velocity"}), frozenset()),
    ),
    "decoder": ((frozenset({"latent"}), frozenset()), (frozenset({"image"}), frozenset())),
}


def check_spec(spec: TensorSpec, shape: tuple[int | None, ...] | None, where: str) -> None:
    """A tensor has the shape and the kind of numbers that its name stands for."""
    if shape is None:
        raise InputError(f"{where}: the bundle has no tokenizer {spec.name.removesuffix('_ids')}.")
    wrong = len(spec.shape) != len(shape) or any(w not in (None, s) for s, w in zip(spec.shape, shape, strict=True))
    if wrong:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise InputError(f"{where} is {brief(list(spec.shape))}; it must be [{wanted}].")
    if math.prod(spec.shape) > ELEMENTS:
        raise InputError(f"{where} has {math.prod(spec.shape)} elements, the limit is {ELEMENTS}.")
    if (spec.dtype == "int32") != spec.name.endswith("_ids"):
        raise InputError(f"{where} holds {spec.dtype}; ids are int32, everything else is floating-point.")


def check_text(artifact: Artifact, where: str) -> None:
    """Text, mask and pooled text agree on tokens and width; an encoder's tokens are those of its ids."""
    specs = {spec.name: spec.shape for spec in (*artifact.inputs, *artifact.outputs)}
    tokens = {specs["text"][3], specs["text_mask"][1]}
    tokens |= {sum(shape[1] for name, shape in specs.items() if name.endswith("_ids"))} - {0}
    if len(tokens) > 1 or specs.get("pooled_text", specs["text"])[1] != specs["text"][1]:
        raise InputError(f"{where}: the shapes of text, text_mask, pooled_text and ids do not agree.")


def check_options(artifact: Artifact, where: str) -> None:
    """Only options of a session that edgegen sets itself are taken, by name and value."""
    if artifact.options and artifact.options not in find_backend(artifact.backend).known_options():
        raise InputError(f"{where}.options are {brief(artifact.options)}, none that edgegen sets.")
