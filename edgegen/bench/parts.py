"""What of a bundle can be measured or predicted: its networks by the manifest's names, and the picture."""

from __future__ import annotations

from collections.abc import Sequence

from edgegen.bundle import COMPONENTS, Bundle
from edgegen.errors import InputError, unknown
from edgegen.manifest import ForeignManifest
from edgegen.verify import is_whole

PICTURE = "picture"
PARTS = (*COMPONENTS, PICTURE)  # of our own networks


def is_picture(bundle: Bundle, component: str) -> bool:
    """Whether a component stands for all of a back end's networks; another project may have named one so."""
    return component == PICTURE and PICTURE not in dict(bundle.networks)


def is_foreign(bundle: Bundle) -> bool:
    """Whether a bundle holds networks of another project."""
    return isinstance(bundle.manifest, ForeignManifest)


def is_drawn(bundle: Bundle) -> bool:
    """Whether a bundle of another project's networks says that it has their pipeline."""
    return isinstance(bundle.manifest, ForeignManifest) and bundle.manifest.pipeline.get("kind") == "pipeline"


def parts_of(bundle: Bundle, backend: str) -> list[str]:
    """The networks of a back end, and the picture where it has all that one takes."""
    has = [name for name, b in bundle.networks if b == backend]
    if is_foreign(bundle):
        return has + ([PICTURE] if is_drawn(bundle) and PICTURE not in has else [])
    return [part for part in PARTS if part in has or (part == PICTURE and is_whole(bundle, backend))]


def check_components(bundle: Bundle, asked: Sequence[str]) -> None:
    """Refuses a component that no back end of a bundle could have."""
    known = [part for b in bundle.backends for part in parts_of(bundle, b)] if is_foreign(bundle) else PARTS
    for component in asked:
        if component not in known:
            raise unknown("component", component, dict.fromkeys(known))


def chosen_parts(bundle: Bundle, backend: str, asked: Sequence[str]) -> list[str]:
    """Those parts of a back end that were asked for; one that it has not is an error."""
    parts = parts_of(bundle, backend)
    for component in asked:
        if component not in parts:
            raise InputError(f"{bundle.root} has no {component} for {backend}.", f"It has: {', '.join(parts)}.")
    return [part for part in parts if not asked or part in asked]


def in_order(components: Sequence[str]) -> list[str]:
    """Components of several bundles, each once, the picture last."""
    return sorted(dict.fromkeys(components), key=lambda component: component == PICTURE)
