"""How long the paper's size takes to export, and how much of it the repeated layers cost.

usage: python benchmarks/export_scale/run.py COMMAND [...]

  default --base DIR [--runs 3]   the README's export here and in a checkout of an older commit, in turn
  paper --tier T --backend B      `edgegen export --preset paper` at 1024x1024, verification included
  plain [--tier T]                stamping against a plain coremltools.convert of the same network, in turn
  depth [--layers 7,14,28,56]     seconds and peak memory of Core ML emission by depth, with a plot
  forms [--tier T]                operations, bytes and seconds of Core ML's forms with fewer operations
  memory [--backends coreml,onnx,executorch]      peak memory of emission at two depths, by back end
  step [--backends onnx,executorch] [--runs 3]   one 1024x1024 step of low-android by ONNX Runtime and ExecuTorch,
                                  against the plain network in eager PyTorch and a plain torch.onnx.export of it

Every measurement runs in a process of its own and appends a row to measurements.jsonl; nothing else may run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgegen.bench.records import append_study
from edgegen.charts import lines

HERE = Path(__file__).parent
ROWS = HERE / "measurements.jsonl"
LATENT, TEXT = (128, 128), 128  # of the paper preset at 1024x1024


def in_process(*arguments: str, code: Path | None = None, module: str = "") -> tuple[str, float, int]:
    """Output, seconds and peak memory (bytes; of the largest process) of a Python process, with a checkout in front."""
    environment = dict(os.environ) | ({"PYTHONPATH": str(code)} if code else {})
    command = [sys.executable, *(["-m", module] if module else [__file__]), *arguments]
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=code)
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}.")
    return output, seconds, usage.ru_maxrss * 1024


def export_default(code: Path | None) -> dict:
    """The README's export, by the checkout in `code` or this one."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ("export", "--tier", "low-android", "--json", "--out", f"{folder}/bundle")
        output, seconds, _ = in_process(*arguments, code=code, module="edgegen")
    document = json.loads(output)
    return {"seconds": round(seconds, 1), "peak_bytes": document["peak_bytes"], "stages": document["stages"]}


def default(arguments: argparse.Namespace) -> dict:
    """Both in turn; the ratio is that of the medians."""
    base, here = [], []
    for _ in range(arguments.runs):
        base.append(export_default(arguments.base))
        here.append(export_default(None))
    middle = [sorted(run["seconds"] for run in runs)[len(runs) // 2] for runs in (base, here)]
    commit = subprocess.run(
        ["git", "-C", arguments.base, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return {"base_commit": commit, "base": base, "here": here, "times_faster": round(middle[0] / middle[1], 2)}


def tier_with(folder: Path, name: str, operations: str) -> str:
    """The file of a tier whose Core ML programs are in another form of operations."""
    from edgegen.target import targets_folder

    text = (targets_folder() / "tiers" / f"{name}.toml").read_text()
    path = folder / f"{name}-{operations}.toml"
    path.write_text(text.replace("[backends.coreml]", f'[backends.coreml]\noperations = "{operations}"', 1))
    return str(path)


def paper(arguments: argparse.Namespace) -> dict:
    """The export as a user runs it."""
    with tempfile.TemporaryDirectory() as folder:
        tier = tier_with(Path(folder), arguments.tier, arguments.operations) if arguments.operations else arguments.tier
        command = ("export", "--preset", "paper", "--tier", tier, "--backend", arguments.backend)
        command += ("--components", arguments.components) if arguments.components else ()
        command += ("--chunks", str(arguments.chunks)) if arguments.chunks else ()
        command += ("--bits", str(arguments.bits), "--tune-steps", "0") if arguments.bits else ()
        output, seconds, _ = in_process(*command, "--json", "--out", f"{folder}/bundle", module="edgegen")
    document = json.loads(output)
    kept = ("peak_bytes", "stages", "components", "verify")
    return {"seconds": round(seconds, 1)} | {key: document[key] for key in kept}


def component_of(tier: str, form: Any, layers: int | None = None) -> Any:
    """The paper's transformer with random weights in a form; `layers`: of that depth, in its proportions."""
    import torch

    from edgegen.model.config import PRESETS
    from edgegen.model.dit import DiT
    from edgegen.rewrite.build import transformer_component
    from edgegen.target import load_tier

    config = PRESETS["paper"].at(load_tier(tier).width)
    if layers:
        ends = round(layers * 9 / 28)
        config = replace(config, depths=(ends, layers - 2 * ends, ends))
    torch.manual_seed(0)
    return transformer_component(DiT(config).eval().requires_grad_(False), LATENT, TEXT, form)


def emit(arguments: argparse.Namespace) -> dict:
    """Emission of one network by a back end, stamped or plain, in this process."""
    from edgegen.backends.registry import find_backend
    from edgegen.inspection import count_operations
    from edgegen.rewrite.component import Form
    from edgegen.target import load_tier

    backend, target = find_backend(arguments.backend), load_tier(arguments.tier).backend(arguments.backend)
    form = Form(target.attention, target.query_chunk, arguments.operations or target.operations)
    component = component_of(arguments.tier, form, arguments.layers)
    with tempfile.TemporaryDirectory() as folder:
        path, start, used = Path(folder) / f"transformer{backend.suffix}", time.perf_counter(), time.process_time()
        if arguments.way == "plain":
            convert_plainly(component, path)
        else:
            backend.write(component, path, target, {})
        seconds, processor = time.perf_counter() - start, time.process_time() - used
        size = sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
        operations = count_operations(arguments.backend, path)
    parameters = sum(parameter.numel() for parameter in component.module.parameters())
    return {
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),
        "bytes": size,
        "parameters": parameters,
        "operations": operations,
    }


def convert_plainly(component: Any, path: Path) -> None:
    """coremltools' own conversion of the whole network, with all its checks."""
    import coremltools as ct
    import numpy as np

    from edgegen.emit.coreml import signature
    from edgegen.emit.program import exported

    inputs, outputs = signature(component)
    model = ct.convert(
        exported(component).run_decompositions({}),
        inputs=[ct.TensorType(name=s.name, shape=s.shape, dtype=np.dtype(s.dtype).type) for s in inputs],
        outputs=[ct.TensorType(name=s.name, dtype=np.dtype(s.dtype).type) for s in outputs],
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
    )
    model.save(str(path))


def emitted(*arguments: str) -> dict:
    """`emit` in a process of its own, with its peak memory."""
    output, _, peak = in_process("emit", *arguments)
    return json.loads(output.strip().splitlines()[-1]) | {"peak_bytes": peak}


def plain(arguments: argparse.Namespace) -> dict:
    """Stamped and plain of one network."""
    stamped, whole = (emitted("--tier", arguments.tier, "--way", way) for way in ("stamped", "plain"))
    ratios = {key: round(whole[key] / stamped[key], 2) for key in ("seconds", "processor_seconds")}
    return {"stamped": stamped, "plain": whole, "times_faster": ratios}


def depth(arguments: argparse.Namespace) -> dict:
    """Stamped emission by depth."""
    layers = [int(n) for n in arguments.layers.split(",")]
    found = {n: emitted("--tier", arguments.tier, "--way", "stamped", "--layers", str(n)) for n in layers}
    series = {
        "processor seconds": [(n, row["processor_seconds"]) for n, row in found.items()],
        "peak, GB x 10": [(n, row["peak_bytes"] / 1e8) for n, row in found.items()],
    }
    (HERE / "depth.svg").write_text(
        lines(series, "Core ML emission by depth", "layers", "processor seconds; GB x 10") + "\n"
    )
    return {str(n): row for n, row in found.items()}


def forms(arguments: argparse.Namespace) -> dict:
    """Core ML emission in every form of the split operations."""
    ways = ("composed", "joined", "grouped")
    return {way: emitted("--tier", arguments.tier, "--operations", way) for way in ways}


def memory(arguments: argparse.Namespace) -> dict:
    """Peak memory of emission by back end, at two depths: bytes a parameter, and bytes beside them."""
    found = {}
    for backend in arguments.backends.split(","):
        less, more = (
            emitted("--tier", arguments.tier, "--backend", backend, "--layers", str(layers)) for layers in (7, 14)
        )
        each = (more["peak_bytes"] - less["peak_bytes"]) / (more["parameters"] - less["parameters"])
        base = round(less["peak_bytes"] - each * less["parameters"])
        found[backend] = {"bytes_a_parameter": round(each, 2), "base_bytes": base, "7": less, "14": more}
    return found


def step(arguments: argparse.Namespace) -> dict:
    """One step by every runtime, in turn, each in a process of its own."""
    ways = ["eager", "plain-onnx", *arguments.backends.split(",")]
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    found: dict[str, list[dict]] = {way: [] for way in ways}
    for way in ways[1:]:
        in_process("step-write", way, str(folder))
    for _ in range(arguments.runs):
        for way in ways:
            output, _, peak = in_process("step-run", way, str(folder))
            found[way].append(json.loads(output.strip().splitlines()[-1]) | {"peak_bytes": peak})
    return found


def plain_network() -> tuple[Any, tuple[Any, ...]]:
    """The (B, L, D) network as it is trained, and inputs of one step."""
    import torch

    from edgegen.model.config import PRESETS
    from edgegen.model.dit import DiT
    from edgegen.target import load_tier

    torch.manual_seed(0)
    config = PRESETS["paper"].at(load_tier("low-android").width)
    model = DiT(config).eval().requires_grad_(False)
    latent = torch.randn(1, config.in_channels, *LATENT)
    return model, (latent, torch.tensor([0.5]), torch.randn(1, TEXT, config.text_dim), torch.ones(1, TEXT))


def step_write(arguments: argparse.Namespace) -> dict:
    """The artifact of a way."""
    import torch

    from edgegen.bench.study import FORMS
    from edgegen.emit import executorch, onnx

    path = Path(arguments.folder) / f"{arguments.way}.artifact"
    if arguments.way == "plain-onnx":
        model, inputs = plain_network()
        program = torch.onnx.export(model, inputs, dynamo=True, verbose=False)
        assert program is not None
        program.save(str(path))
    else:
        writers = {"onnx": onnx.write, "executorch": executorch.write}
        component = component_of("low-android", FORMS[arguments.way])
        path.with_suffix(".json").write_text(json.dumps([spec.shape for spec in component.inputs]))
        writers[arguments.way](component, path)
    return {}


def step_run(arguments: argparse.Namespace) -> dict:
    """Seconds of a way's second run, alone in this process."""
    import numpy as np
    import torch

    path = Path(arguments.folder) / f"{arguments.way}.artifact"
    if arguments.way == "executorch":
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(str(path)).load_method("forward")
        inputs = [torch.ones(shape) for shape in json.loads(path.with_suffix(".json").read_text())]

        def run() -> Any:
            return method.execute(inputs)

    elif arguments.way == "eager":
        model, inputs = plain_network()

        def run() -> Any:
            with torch.no_grad():
                return model(*inputs)

    else:
        from edgegen.runtime.onnx import import_onnxruntime

        session = import_onnxruntime().InferenceSession(str(path))
        feed = {value.name: np.ones(value.shape, np.float32) for value in session.get_inputs()}

        def run() -> Any:
            return session.run(None, feed)

    run()
    start = time.perf_counter()
    run()
    return {"seconds": round(time.perf_counter() - start, 2)}


STUDIES = {
    "default": default,
    "paper": paper,
    "plain": plain,
    "depth": depth,
    "forms": forms,
    "memory": memory,
    "step": step,
}
PARTS = {"emit": emit, "step-write": step_write, "step-run": step_run}  # what studies start in a process of its own


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = made.add_subparsers(dest="command", required=True)
    one = commands.add_parser("default")
    one.add_argument("--base", type=Path, required=True)
    one.add_argument("--runs", type=int, default=3)
    one = commands.add_parser("paper")
    one.add_argument("--tier", default="low-android")
    one.add_argument("--backend", default="coreml")
    one.add_argument("--components", default="")
    one.add_argument("--chunks", type=int)
    one.add_argument("--bits", type=float)
    one.add_argument("--operations", default="")
    commands.add_parser("plain").add_argument("--tier", default="low-android")
    one = commands.add_parser("depth")
    one.add_argument("--tier", default="low-android")
    one.add_argument("--layers", default="7,14,28,56")
    commands.add_parser("forms").add_argument("--tier", default="low-android")
    one = commands.add_parser("memory")
    one.add_argument("--tier", default="low-android")
    one.add_argument("--backends", default="coreml,onnx,executorch")
    one = commands.add_parser("step")
    one.add_argument("--backends", default="onnx,executorch")
    one.add_argument("--runs", type=int, default=3)
    one.add_argument("--folder", help="Where the artifacts go, which have 3 GB; the system's temporary folder.")
    one = commands.add_parser("emit")
    one.add_argument("--tier", default="low-android")
    one.add_argument("--backend", default="coreml")
    one.add_argument("--way", choices=("stamped", "plain"), default="stamped")
    one.add_argument("--layers", type=int)
    one.add_argument("--operations", default="")
    for name in ("step-write", "step-run"):
        one = commands.add_parser(name)
        one.add_argument("way")
        one.add_argument("folder")
    return made


def main() -> None:
    arguments = parser().parse_args()
    if arguments.command in PARTS:
        print(json.dumps(PARTS[arguments.command](arguments)))
        return
    results = STUDIES[arguments.command](arguments)
    settings = {key: value for key, value in vars(arguments).items() if isinstance(value, str | int | float)}
    print(json.dumps(append_study(ROWS, settings, results)["results"], indent=2))


if __name__ == "__main__":
    main()
