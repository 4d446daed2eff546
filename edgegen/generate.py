"""A picture from a prompt, drawn by a bundle's artifacts or by the checkpoint it was made of."""

from __future__ import annotations

import hashlib
import os
import time
import unicodedata
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from edgegen.backends.registry import backend_names, fastest_first
from edgegen.bundle import MANIFEST, Bundle, load_bundle
from edgegen.callbacks import Advance, Report
from edgegen.errors import InputError, brief, unknown
from edgegen.files import user_path
from edgegen.manifest import ForeignManifest
from edgegen.model.checkpoint import Checkpoint, load_checkpoint
from edgegen.model.random_checkpoint import reopen
from edgegen.model.sampler import SamplerConfig, flow_sigmas
from edgegen.pictures import save_picture
from edgegen.pipeline.draw import denoise, to_image
from edgegen.pipeline.networks import ArtifactNetworks, Networks
from edgegen.pipeline.torch import TorchNetworks
from edgegen.runtime.threads import threads_for
from edgegen.strict_json import is_text
from edgegen.verify import is_whole

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MAX_SEED = 2**63 - 1
SLUG = 60  # bytes of a picture's name that come from its prompt


@dataclass(frozen=True)
class PictureRequest:
    """A picture to draw; what is None is the bundle's own."""

    prompt: str
    bundle: Path | None = None  # None: the newest below ./out
    backend: str | None = None  # None: the fastest the bundle has
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    out: Path | None = None  # None: named after the prompt
    preview: bool = False
    checkpoint: Path | None = None  # for the back end torch, where the bundle's own is gone


@dataclass(frozen=True)
class Drawn:
    """A picture on disk and how it was made."""

    picture: str
    prompt: str
    bundle: str
    backend: str
    seed: int
    steps: int
    guidance: float
    resolution: tuple[int, int]
    truncated: bool  # the prompt was longer than the text encoders take
    random_weights: bool
    seconds: float
    previews: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def open(self) -> Image.Image:
        """The picture, read from its file."""
        with Image.open(self.picture) as image:
            return image.copy()

    def to_dict(self) -> dict:
        return asdict(self)


def generate(
    request: PictureRequest, report: Report = lambda line: None, advance: Advance = lambda done, of: None
) -> Drawn:
    """Draws and saves a picture; the file appears whole. `report` is told what begins, `advance` of each step."""
    check_prompt(request.prompt)
    bundle = load_bundle(request.bundle or newest_bundle(Path("out")))
    with threads_for(max(sum(a.bytes for a in bundle.programs(*network)) // 2 for network in bundle.networks)):
        if isinstance(bundle.manifest, ForeignManifest):
            return draw_with_pipeline(bundle, request, report, advance)
        return draw_and_save(bundle, request, report, advance)


def draw_and_save(bundle: Bundle, request: PictureRequest, report: Report, advance: Advance) -> Drawn:
    """Draws with the back end asked for, and saves the picture and, if asked, what each step aims at."""
    backend = choose_backend(bundle, request.backend)
    sampler = sampler_of(bundle, request)
    if not 0 <= request.seed <= MAX_SEED:
        raise InputError(f"seed {request.seed} is outside 0 to {MAX_SEED}.")
    out = check_out(request.out or Path(f"{slug(request.prompt)}.png"))
    networks = open_networks(bundle, backend, request.checkpoint)

    start, truncated, previews = time.perf_counter(), [], []
    sigmas = flow_sigmas(sampler.steps, sampler.shift)
    shape = bundle.manifest.latent_shape
    report(f"drawing with {backend}, {sampler.steps} steps")
    for step in denoise(
        networks, request.prompt, shape, sigmas, sampler.guidance, request.seed, lambda: truncated.append(True)
    ):
        advance(step.index, step.count)
        if request.preview and step.index < step.count:
            path = out.with_name(f"{out.stem}-step{step.index:02d}{out.suffix}")
            save_picture(to_image(networks.decode(step.predicted)), path)
            previews.append(str(path))
    report("decoding")
    save_picture(to_image(networks.decode(step.latent)), out)
    return Drawn(
        str(out),
        request.prompt,
        str(bundle.folder),
        backend,
        request.seed,
        sampler.steps,
        sampler.guidance,
        bundle.manifest.resolution,
        bool(truncated),
        bundle.manifest.checkpoint.get("kind") == "random",
        round(time.perf_counter() - start, 3),
        tuple(previews),
    )


def draw_with_pipeline(bundle: Bundle, request: PictureRequest, report: Report, advance: Advance) -> Drawn:
    """Draws with the pipeline of diffusers that a bundle of foreign networks was made of."""
    from edgegen.foreign.pipeline import described, open_pipeline, run_pipeline

    if request.preview or request.backend == "torch":
        raise InputError("a foreign bundle draws with its artifacts alone, without previews.", "Leave that out.")
    check_numbers(request)
    if not 0 <= request.seed <= MAX_SEED:
        raise InputError(f"seed {request.seed} is outside 0 to {MAX_SEED}.")
    backend = request.backend or next(b for b in fastest_first() if b in bundle.backends)
    if backend not in bundle.backends:
        raise unknown("back end", backend, bundle.backends)
    out = check_out(request.out or Path(f"{slug(request.prompt)}.png"))
    start = time.perf_counter()
    report(f"drawing with {backend}")
    drawn = run_pipeline(
        open_pipeline(bundle, backend, request.checkpoint), request.prompt, bundle.manifest.resolution, request.seed,
        request.steps, request.guidance, advance, described(bundle).get("max_sequence_length", 0),
    )  # fmt: skip
    save_picture(drawn.picture, out)
    seconds = round(time.perf_counter() - start, 3)
    return Drawn(
        str(out), request.prompt, str(bundle.folder), backend, request.seed, drawn.steps, drawn.guidance,
        drawn.picture.size, drawn.truncated, False, seconds, (), drawn.notes,
    )  # fmt: skip


def check_numbers(request: PictureRequest) -> None:
    """Refuses steps and guidance that are out of range, where they are given."""
    steps = 1 if request.steps is None else request.steps
    SamplerConfig(steps, guidance=1.0 if request.guidance is None else request.guidance)


def newest_bundle(root: Path) -> Path:
    """The bundle below a folder whose manifest is the newest."""
    manifests = [p for p in root.glob(f"*/*/{MANIFEST}") if not p.parent.name.startswith(".")]
    if not manifests:
        raise InputError(f"there is no bundle in {root}/.", "Make one with edgegen export, or give --bundle.")
    return max(manifests, key=lambda p: p.stat().st_mtime).parent


def choose_backend(bundle: Bundle, name: str | None) -> str:
    """The back end asked for, or the fastest that has all it takes."""
    if name is None:
        whole = [b for b in fastest_first() if is_whole(bundle, b)]
        if not whole:
            raise InputError(
                f"{bundle.root} has no back end with all three components.", "Export without --components."
            )
        return whole[0]
    known = (*backend_names(), "torch")
    if name not in known:
        raise unknown("back end", name, known)
    return name


def sampler_of(bundle: Bundle, request: PictureRequest) -> SamplerConfig:
    """The bundle's sampler with what the request changes; out of range is an error."""
    m = bundle.manifest
    steps = m.steps if request.steps is None else request.steps
    guidance = m.guidance if request.guidance is None else request.guidance
    return SamplerConfig(steps, m.shift, guidance)


def open_networks(bundle: Bundle, backend: str, checkpoint: Path | None) -> Networks:
    """The artifacts of a back end, or the original the bundle was made of."""
    if backend != "torch":
        return ArtifactNetworks(bundle, backend, native=True)
    return TorchNetworks(checkpoint_of(bundle, checkpoint), bundle.manifest.width)


def checkpoint_of(bundle: Bundle, folder: Path | None) -> Checkpoint:
    """The checkpoint a bundle was made of: in the folder given, or where the manifest says."""
    return load_checkpoint(folder) if folder else reopen(bundle.manifest.checkpoint)


def check_prompt(prompt: str) -> str:
    """Refuses a prompt that is no text, such as one typed in another encoding than the terminal's."""
    if not is_text(prompt):
        raise InputError(f"the prompt {brief(prompt)} is not UTF-8 text.", "Type it in UTF-8.")
    return prompt


def check_out(path: Path) -> Path:
    """Refuses a file that cannot be a picture or has nowhere to go, before any work."""
    path = user_path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} has no picture's suffix.", f"Use one of {', '.join(SUFFIXES)}.")
    if path.is_dir():
        raise InputError(f"{path} is a folder.", "Give a file with --out.")
    if os.path.lexists(path) and not path.is_symlink() and not path.is_file():
        raise InputError(f"{path} is no file.", "Give another file with --out.")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"folder {path.parent} does not exist.", "Make it, or choose another --out.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"folder {path.parent} cannot be written to.", "Choose another --out.")
    return path


def slug(prompt: str) -> str:
    """A file name that resembles a prompt, in any script; of one that is cut or has no letters, with a digest, so that
    two prompts do not become one picture.
    """
    words = "".join(c if c.isalnum() else " " for c in unicodedata.normalize("NFC", prompt.lower())).split()
    name, cut = "-".join(words), ""
    for letter in name:
        if len((cut + letter).encode()) > SLUG:
            break
        cut += letter
    if cut == name and name:
        return name
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:8]
    return f"{cut.strip('-') or 'picture'}-{digest}" if prompt else "picture"
