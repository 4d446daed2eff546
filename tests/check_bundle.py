#!/usr/bin/env python3
"""Judges a bundle by its contract alone, without importing edgegen: what an app, or a script of yours, may rely on.

usage: check_bundle.py BUNDLE_DIR [--backends onnx,executorch,coreml,coreai]

Checks the manifest's fields, that every path lies inside the bundle, the sha256 and byte counts, that each artifact
opens in its own runtime (Core ML: reads back as a MIL program), that its inputs and outputs are those the manifest
names, that one run on seeded random inputs is finite and not constant (ONNX, ExecuTorch, Core AI), that verify.json
has a finite, passing row for every component, and, of format_version 2, what `pipeline` says of a diffusers pipeline.
Exit 0 and one line per component, or 1 and the reasons.
"""

import argparse
import asyncio
import hashlib
import json
import math
import os
import pathlib
import sys

import numpy as np

FIELDS = (
    "format_version", "model", "tier", "width", "resolution", "steps", "sigmas", "guidance", "bits", "tool_versions",
    "components",
)  # fmt: skip
COMPONENT = ("name", "backend", "path", "sha256", "bytes", "resident_bytes", "form", "inputs", "outputs")


def digest(path: pathlib.Path) -> tuple[str, int]:
    """sha256 of a file; of a folder, sha256 over the lines '<sha256>  <relative path>' sorted by path. And bytes."""
    if path.is_file():
        data = path.read_bytes()
        return hashlib.sha256(data).hexdigest(), len(data)
    lines, total = [], 0
    files = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
    for name, file in sorted(files.items()):
        found, size = digest(file)
        lines.append(f"{found}  {name}\n")
        total += size
    return hashlib.sha256("".join(lines).encode()).hexdigest(), total


def random_inputs(specs: list[dict]) -> dict[str, np.ndarray]:
    """Seeded values of each input's shape and type."""
    rng = np.random.default_rng(0)
    made = {}
    for spec in specs:
        shape, dtype = [int(size) for size in spec["shape"]], spec["dtype"]
        if "int" in dtype:
            made[spec["name"]] = rng.integers(0, 100, shape).astype(dtype)
        elif "bool" in dtype:
            made[spec["name"]] = np.ones(shape, bool)
        else:
            made[spec["name"]] = rng.standard_normal(shape).astype(dtype)
    return made


def require_names(found: list[str], specs: list[dict], what: str, ordered: bool) -> None:
    """Fails where an artifact's own names are not the manifest's."""
    named = [spec["name"] for spec in specs]
    same = found == named if ordered else sorted(found) == sorted(named)
    if not same:
        raise ValueError(f"{what} names differ from the manifest: {found}")


def run_onnx(path: pathlib.Path, component: dict) -> list[np.ndarray]:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(path))
    session = onnxruntime.InferenceSession(str(path))
    require_names([value.name for value in session.get_inputs()], component["inputs"], "input", ordered=False)
    require_names([value.name for value in session.get_outputs()], component["outputs"], "output", ordered=True)
    return session.run(None, random_inputs(component["inputs"]))


def run_executorch(path: pathlib.Path, component: dict) -> list[np.ndarray]:
    import torch
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(str(path)).load_method("forward")
    feed = random_inputs(component["inputs"])
    made = method.execute([torch.from_numpy(feed[spec["name"]]) for spec in component["inputs"]])
    return [value.numpy() for value in made]


def run_coreml(path: pathlib.Path, component: dict) -> list[np.ndarray]:
    import coremltools
    from coremltools.converters.mil.frontend.milproto.load import load

    model = coremltools.models.MLModel(str(path), skip_model_load=True)
    spec = model.get_spec()
    program = load(spec, specification_version=spec.specificationVersion, file_weights_dir=model.weights_dir)
    main = program.functions["main"]
    require_names(list(main.inputs), component["inputs"], "input", ordered=False)
    require_names([value.name for value in main.outputs], component["outputs"], "output", ordered=True)
    return []


def run_coreai(path: pathlib.Path, component: dict) -> list[np.ndarray]:
    import coreai.runtime
    from coreai.authoring.asset import AIModelAsset

    async def run() -> list[np.ndarray]:
        async with AIModelAsset.load(path).executable() as model:
            function = model.load_function(model.function_names[0])
            feed = random_inputs(component["inputs"])
            made = await function({name: coreai.runtime.NDArray(value) for name, value in feed.items()})
            return [made[spec["name"]].numpy() for spec in component["outputs"]]

    return asyncio.run(run())


RUN = {"onnx": run_onnx, "executorch": run_executorch, "coreml": run_coreml, "coreai": run_coreai}


def check_file(root: pathlib.Path, component: dict) -> list[str]:
    """What is wrong with an artifact's file."""
    path = (root / component["path"]).resolve()
    if not path.is_relative_to(root.resolve()):
        return [f"{component['path']} lies outside the bundle"]
    if not path.exists():
        return [f"{component['path']} is missing"]
    sha256, size = digest(path)
    bad = [] if sha256 == component["sha256"] else ["sha256 differs"]
    return bad if size == component["bytes"] else [*bad, f"{size} bytes, manifest says {component['bytes']}"]


def check_pipeline(root: pathlib.Path, told: dict) -> list[str]:
    """What is wrong with what a manifest says of a pipeline; what it does not say, as older ones, is let be."""
    scheduler, sampling, networks = (told.get(key, {}) for key in ("scheduler", "sampling", "networks"))
    texts = {"class": told.get("class", "-"), "scheduler.class": scheduler.get("class", "-")}
    for name, network in networks.items():
        texts |= {f"{name}.{key}": network.get(key, "-") for key in ("class", "sampler", "prediction", "timestep")}
    bad = [
        f"pipeline: {key} is no name: {value!r}"
        for key, value in texts.items()
        if not (value and isinstance(value, str))
    ]
    bad += [
        f"pipeline: guidance of {name} is {network['guidance']!r}"
        for name, network in networks.items()
        if network.get("guidance", "none") not in ("batch", "embedded", "none")
    ]
    for key in ("timesteps", "sigmas"):
        if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in sampling.get(key, [])):
            bad.append(f"pipeline: sampling.{key} are no numbers")
    for name, tokenizer in told.get("tokenizers", {}).items():
        if tokenizer.get("path"):
            bad += [f"{name}: {reason}" for reason in check_file(root, tokenizer)]
    return bad


def check_rows(rows: list[dict]) -> list[str]:
    """What is wrong with an artifact's rows of verify.json."""

    def passes(row: dict) -> bool:
        value, floor = float(row["psnr_db"]), float(row["floor_db"])
        return row["finite"] is True and row["passed"] is True and math.isfinite(value) and value >= floor

    return [f"verification row does not pass: {row}" for row in rows if not passes(row)] or (
        [] if rows else ["no row in verify.json"]
    )


def check_run(root: pathlib.Path, component: dict) -> list[str]:
    """What is wrong with what an artifact gives."""
    try:
        made = RUN[component["backend"]](root / component["path"], component)
    except Exception as error:  # any failure of any runtime is a finding about the bundle
        return [f"{type(error).__name__}: {str(error)[:200]}"]
    bad = []
    for value, spec in zip(made, component["outputs"] if made else [], strict=True):
        if list(value.shape) != [int(size) for size in spec["shape"]]:
            bad.append(f"output {spec['name']} has shape {list(value.shape)}")
        elif not np.isfinite(value).all():
            bad.append(f"output {spec['name']} is not finite")
        elif value.size > 1 and float(np.std(value.astype(np.float64))) == 0:
            bad.append(f"output {spec['name']} is constant")
    return bad


def check_component(root: pathlib.Path, component: dict, rows: list[dict]) -> list[str]:
    """What is wrong with one entry of the manifest."""
    mine = [r for r in rows if (r["component"], r["backend"]) == (component["name"], component["backend"])]
    return [*check_file(root, component), *check_rows(mine)] or check_run(root, component)


def check(root: pathlib.Path, backends: list[str]) -> list[str]:
    """Everything that is wrong with a bundle."""
    manifest = json.loads((root / "manifest.json").read_text())
    rows = json.loads((root / "verify.json").read_text())
    bad = [f"manifest lacks {key}" for key in FIELDS if key not in manifest]
    bad += check_pipeline(root, manifest.get("pipeline", {}))
    seen = set()
    for component in manifest.get("components", []):
        who = f"{component.get('name')}/{component.get('backend')}"
        missing = [key for key in COMPONENT if key not in component]
        if missing:
            bad.append(f"{who}: manifest lacks {', '.join(missing)}")
        elif not backends or component["backend"] in backends:
            seen.add(component["backend"])
            found = check_component(root, component, rows)
            bad += [f"{who}: {reason}" for reason in found]
            print(f"{'BAD' if found else 'ok '} {who}  {component['bytes']} bytes")
    bad += [f"no component for {backend}" for backend in backends if backend not in seen]
    return bad if seen else [*bad, "no component was checked"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=pathlib.Path)
    parser.add_argument("--backends", type=lambda text: text.split(","), default=[])
    arguments = parser.parse_args()
    found = check(arguments.bundle, arguments.backends)
    for line in found:
        print("BAD", line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
