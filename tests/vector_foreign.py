"""Manifests of other projects' networks, cut down from bundles that are really exported, and what an app says of them.

An app draws with none of them: it refuses each by the names that the manifest gives, or `pipeline/model_index.json`
where the manifest is of before it named pipeline and scheduler.
"""

from __future__ import annotations

import json
import tempfile
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

FOREIGN, UNKNOWN = "foreign_networks", "unknown_version"
INDEX = "pipeline/model_index.json"
KEPT = ("format_version", "model", "tier", "resolution")
TOLD = ("class", "family", "prediction", "sampler", "guidance", "packing")  # of a network
NEEDS = ("sampler", "prediction", "guidance")  # of them, what an app names beside the class
NAMED = ("_class_name", "scheduler", "transformer", "vae")  # of an index
LONG = 48  # characters of a name that an app shows
WRONG: tuple[Any, ...] = (None, 5, "", [], {"a": 1})

Values = dict[str, Any]
Case = dict[str, Any]


@cache
def exported(name: str, only: str = "") -> tuple[Values, Values]:
    """The manifest and the index, cut down, of a tiny pipeline's folder or of its network `only`."""
    from pipelines import save_pipeline, size_of

    from edgegen import export_folder

    with tempfile.TemporaryDirectory() as folder:
        source, bundle = Path(folder) / name, Path(folder) / "bundle"
        save_pipeline(name, source)
        size, tokens = size_of(name)
        export_folder(
            source / only, "high-phone", backends=["onnx"], resolution=size, tokens=tokens, out=bundle,
            components=[] if only else ["transformer"], progress=False,
        )  # fmt: skip
        return cut(json.loads((bundle / "manifest.json").read_text()), KEPT), index_of(bundle)


@cache
def exported_module() -> Values:
    """The manifest, cut down, of a module of a user's own."""
    import torch

    from edgegen import export_module

    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        export_module(torch.nn.Sequential(torch.nn.Linear(8, 8)), {"input": torch.ones(1, 8)}, "high-phone",
                      backends=["onnx"], out=bundle, progress=False)  # fmt: skip
        return cut(json.loads((bundle / "manifest.json").read_text()), KEPT)


def cut(manifest: Values, kept: tuple[str, ...]) -> Values:
    """A manifest without its artifacts."""
    told = manifest["pipeline"]
    networks = {name: {k: v for k, v in n.items() if k in TOLD} for name, n in told["networks"].items()}
    named = {"class": told["class"], "scheduler": {"class": told["scheduler"]["class"]}} if "class" in told else {}
    return {k: manifest[k] for k in kept} | {"pipeline": {"kind": told["kind"], **named, "networks": networks}}


def older(manifest: Values) -> Values:
    """As manifests were before they named pipeline and scheduler."""
    left = {key: value for key, value in manifest["pipeline"].items() if key not in ("class", "scheduler")}
    return manifest | {"pipeline": left}


def index_of(bundle: Path) -> Values:
    """The index of a bundle, cut down; empty where it has none."""
    path = bundle / INDEX
    found = json.loads(path.read_text()) if path.is_file() else {}
    return {key: found[key] for key in NAMED if key in found}


def case(name: str, manifest: Any, kind: str, says: list[str], index: Any = None) -> Case:
    """`index` is the text of a file, or what is written to one."""
    text = index if isinstance(index, str) or index is None else json.dumps(index)
    return {"name": name, "manifest": json.dumps(manifest), "index": text, "kind": kind, "says": says}


def network_of(manifest: Values) -> Values:
    networks = manifest["pipeline"]["networks"]
    return networks.get("transformer") or networks["network"]


def needs_of(manifest: Values) -> list[str]:
    """What an app says that a network needs."""
    network = network_of(manifest)
    return [network["class"], *(f"{key} {network[key]}" for key in NEEDS if key in network)]


def pipeline_cases(name: str) -> list[Case]:
    """Named by the manifest alone, by an older one's index, and by the manifest against another index."""
    manifest, index = exported(name)
    says = [index["_class_name"], f"draws with {index['scheduler'][1]}", *needs_of(manifest), "edgegen generate"]
    other = index | {"_class_name": "OtherPipeline", "scheduler": ["diffusers", "OtherScheduler"]}
    return [
        case(f"the pipeline {name}", manifest, FOREIGN, says),
        case(f"the pipeline {name}, as it was", older(manifest), FOREIGN, says, index),
        case(f"the pipeline {name} beside another's index", manifest, FOREIGN, says, other),
    ]


def network_cases() -> list[Case]:
    part, own = exported("pixart", "transformer")[0], exported_module()
    return [
        case("a network of a pipeline", part, FOREIGN, ["a lone network", *needs_of(part), "edgegen verify"]),
        case("a module", own, FOREIGN, ["a lone network", *needs_of(own), "edgegen verify"]),
    ]


def index_cases() -> list[Case]:
    """A pipeline whose index is missing or says nothing that can be read: the manifest's own names are left."""
    manifest, index = older(exported("pixart")[0]), exported("pixart")[1]
    says = ["a pipeline", *needs_of(manifest)]
    wrong = {"cut off": json.dumps(index)[:-1], "a list": [], "of numbers": {"_class_name": 5, "scheduler": 5},
             "of short lists": {"_class_name": [], "scheduler": ["diffusers"]},
             "of nothing": {"_class_name": None, "scheduler": [None, None]},
             "nested deeply": "[" * 2000 + "]" * 2000}  # fmt: skip
    cases = [case("no index", manifest, FOREIGN, says)]
    return cases + [case(f"an index {name}", manifest, FOREIGN, says, text) for name, text in wrong.items()]


def wrong_cases() -> list[Case]:
    """A manifest of which a name, or what holds it, is of a wrong type: it is refused by its number alone."""
    manifest, _ = exported("pixart")
    says = ["format_version is 2"]
    made = []
    for path in (("pipeline",), ("pipeline", "kind"), ("pipeline", "networks"), ("pipeline", "networks", "transformer"),
                 ("pipeline", "class"), ("pipeline", "scheduler"), ("pipeline", "scheduler", "class"),
                 *(("pipeline", "networks", "transformer", key) for key in ("class", *NEEDS))):  # fmt: skip
        for value in WRONG:
            changed = deepcopy(manifest)
            holder = changed
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = value
            made.append(case(f"{'.'.join(path)} is {json.dumps(value)}", changed, UNKNOWN, says))
    for key in ("kind", "networks"):
        changed = deepcopy(manifest)
        del changed["pipeline"][key]
        made.append(case(f"no {key}", changed, UNKNOWN, says))
    return made


def name_cases() -> list[Case]:
    """Names that are no names: one line is said of them, and what they hide is not."""
    manifest, index = exported("pixart")
    long = deepcopy(manifest)
    network_of(long)["class"] = "A" * 1000
    odd = index | {"_class_name": "Pipe\nline\u202e\x1b[31m\U0001f600", "scheduler": ["diffusers", "Sampler\u0000<b>"]}
    strange = deepcopy(manifest)
    strange["pipeline"] |= {"class": odd["_class_name"], "scheduler": {"class": odd["scheduler"][1]}}
    return [
        case("a long name", long, FOREIGN, [f" {'A' * (LONG - 1)}…"], index),
        case("names with what is no letter", older(manifest), FOREIGN, ["Pipe?line???31m?", "Sampler??b?"], odd),
        case("the manifest's with what is no letter", strange, FOREIGN, ["Pipe?line???31m?", "Sampler??b?"]),
    ]


def version_cases() -> list[Case]:
    """Versions that nobody knows: what they say besides is not believed."""
    manifest, index = exported("pixart")
    made = []
    for version in (0, 3, 2.5, -2, "2", True, None, [2]):
        text = json.dumps(version, separators=(",", ":"))
        changed = manifest | {"format_version": version}
        made.append(case(f"version {text}", changed, UNKNOWN, [f"format_version is {text}"], index))
    without = {key: value for key, value in manifest.items() if key != "format_version"}
    long = manifest | {"format_version": "9" * 1000}
    return [
        *made,
        case("no version", without, UNKNOWN, ["format_version is missing"], index),
        case("a long version", long, UNKNOWN, ['format_version is "999'], index),
    ]


def foreign_vectors() -> Values:
    """Manifests and indices as text, the kind of error that follows, and what its message and remedy say."""
    pipelines = [*pipeline_cases("pixart"), *pipeline_cases("sana_sprint")]
    cases = [*pipelines, *network_cases(), *index_cases(), *wrong_cases(), *name_cases(), *version_cases()]
    return {"limit": 500, "cases": cases}
