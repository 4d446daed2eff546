"""What is said of a bundle of other projects' networks where only an app could run it: the apps draw with none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgegen.bundle import Bundle, check_inside
from edgegen.errors import InputError, shortened
from edgegen.manifest import ForeignManifest
from edgegen.strict_json import parse_json, read_bytes

INDEX = "pipeline/model_index.json"  # of diffusers
INDEX_LIMIT = 2**20  # bytes; a pipeline's has some hundred
LONGEST, PATH = 48, 40  # characters of a name and of a folder
NEEDED = ("sampler", "prediction", "guidance")  # of a family that edgegen knows

Values = Mapping[str, Any]


def refuse_foreign(bundle: Bundle, who: str) -> None:
    """Refuses a bundle of other projects' networks by the names that it gives itself; `who` is what would run it."""
    if isinstance(bundle.manifest, ForeignManifest):
        raise foreign_refusal(shortened(str(bundle.root), PATH), who, bundle.manifest.pipeline, read_index(bundle))


def foreign_refusal(where: str, who: str, told: Values, index: Values) -> InputError:
    """What an app says of a manifest's `pipeline`, and of the index of diffusers beside it, empty if there is none."""
    what = described(told, index) or "of another project's networks (format_version is 2)"
    does = "edgegen generate draws with" if told.get("kind") == "pipeline" else "edgegen verify runs"
    return InputError(f"{where} is {what}; {who} draws with edgegen's own networks.", f"Here, {does} it.")


def described(told: Values, index: Values) -> str:
    """A pipeline or a lone network by its names; empty where one is missing that every export writes."""
    network = network_of(told)
    names = {key: name_of(network[key]) for key in ("class", *NEEDED) if key in network}
    if told.get("kind") not in ("pipeline", "network") or "class" not in names or not all(names.values()):
        return ""
    model = names.pop("class")
    noted = f" ({', '.join(f'{key} {name}' for key, name in names.items())})" if names else ""
    if told["kind"] == "network":
        return f"a lone network, {model}{noted}"
    pipeline, scheduler = name_of(told.get("class", index.get("_class_name"))), scheduler_of(told, index)
    if ("class" in told and not pipeline) or ("scheduler" in told and not scheduler):
        return ""
    drawn = f", that draws with {scheduler}" if scheduler else ""
    return f"a pipeline, {f'{pipeline} with {model}' if pipeline else model}{drawn}{noted}"


def network_of(told: Values) -> Values:
    """What is said of the transformer, or of the first network where there is none; empty where nothing is."""
    networks = told.get("networks")
    if not isinstance(networks, dict) or not networks:
        return {}
    network = networks.get("transformer", networks[min(networks)])
    return network if isinstance(network, dict) else {}


def scheduler_of(told: Values, index: Values) -> str:
    """The class of a pipeline's scheduler: the manifest's, or the index's beside an older one; empty without either."""
    if "scheduler" in told:
        return name_of(told["scheduler"].get("class")) if isinstance(told["scheduler"], dict) else ""
    entry = index.get("scheduler")
    return name_of(entry[1]) if isinstance(entry, list) and len(entry) == 2 else ""


def name_of(value: Any) -> str:
    """A text as one may show it, short and of plain letters; empty for what is no text."""
    if not isinstance(value, str):
        return ""
    shown = "".join(c if c.isascii() and (c.isalnum() or c in " _-+.") else "?" for c in value[: LONGEST + 1])
    return shown[: LONGEST - 1] + "…" if len(shown) > LONGEST else shown


def read_index(bundle: Bundle) -> Values:
    """The index of a bundle's pipeline; empty where it is not there, lies outside or cannot be read."""
    path = bundle.root / INDEX
    try:
        check_inside(bundle.root, INDEX)
        found = parse_json(read_bytes(path, largest=INDEX_LIMIT), str(path))
    except InputError:
        return {}
    return found if isinstance(found, dict) else {}
