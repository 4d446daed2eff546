"""Core AI: an .aimodel for iOS and macOS 27, written wherever Apple's packages install (`edgegen[coreai]`)."""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import platform
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from edgegen.emit.half import to_half_
from edgegen.emit.palette_coreai import WEIGHT, check, store_
from edgegen.emit.program import exported
from edgegen.emit.program_stamp import stamped
from edgegen.errors import InputError
from edgegen.quantize.stored import StoredWeights
from edgegen.quiet import quiet
from edgegen.rewrite.component import Component, TensorSpec

PACKAGES = {"coreai-core": "1.0.0b3", "coreai-torch": "0.4.3"}  # the versions whose programs we have run
EXTRA = "pip install 'edgegen[coreai]'"
WHERE = "x86-64 Linux with glibc 2.34, and macOS 26 on Apple silicon, or newer"  # Apple's wheels of coreai-core
GLIBC, MACOS = (2, 34), 26


def require() -> None:
    """An InputError of one line unless Apple's packages can be here, are, in a version we know, and load."""
    place = unsupported()
    if place:
        raise InputError(f"Core AI's packages do not exist for {place}.", f"They do for {WHERE}.")
    for package, wanted in PACKAGES.items():
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise InputError(f"Core AI needs {package} {wanted}, which is not installed.", f"{EXTRA}.") from None
        if found != wanted:
            raise InputError(f"{package} {found} is installed; edgegen knows {wanted}.", f"{EXTRA}.")
    try:
        with quiet():
            importlib.import_module("coreai_torch")
    except Exception as error:  # a wheel for another system fails in its own ways
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"Core AI's packages do not load here: {reason}.", f"They run on {WHERE}.") from error


def unsupported() -> str:
    """This system, where Apple has no wheels for it; "" where it has."""
    system, machine = platform.system(), platform.machine()
    if system == "Darwin":
        return "" if machine == "arm64" and macos() >= MACOS else f"macOS {platform.mac_ver()[0]} on {machine}"
    library, version = platform.libc_ver()
    if (system, machine, library) != ("Linux", "x86_64", "glibc"):
        return f"{system} on {machine}" + ("" if system != "Linux" or library == "glibc" else " without glibc")
    return "" if numbers(version) >= GLIBC else f"glibc {version}"


def macos() -> int:
    """The number of this macOS; 0 elsewhere."""
    return next(iter(numbers(platform.mac_ver()[0])), 0)


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version: (2, 34) of 2.34."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def signature(component: Component, precision: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as the program has them: its floats are of `precision`."""

    def typed(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(s, dtype=precision) if s.dtype == "float32" else s for s in specs)

    return typed(component.inputs), typed(component.outputs)


def write(
    component: Component, path: Path, weights: StoredWeights | None = None, precision: str = "float16"
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Converts a component and saves it as an .aimodel; returns its signature.

    Activations, and weights but for those in `weights`, are of `precision`; those are stored as they were quantized
    (palette_coreai.py). Every weight's constant carries its name as the file of its debug location.
    """
    require()
    check(weights or {})
    inputs, outputs = signature(component, precision)
    with quiet():
        program = convert(component, precision)
        store_(program, weights or {}, precision)
        program.save_asset(path)
    return inputs, outputs


def convert(component: Component, precision: str) -> Any:
    """The AIProgram of a component, whose constants are marked with the parameters they came from."""
    program = prepared(component, precision)
    converter = naming_converter(program.graph_signature.inputs_to_parameters)
    converter.add_exported_program(
        program,
        input_names=[spec.name for spec in component.inputs],
        output_names=[spec.name for spec in component.outputs],
    )
    with redirect_stdout(io.StringIO()):  # it prints to Python's stdout, whatever that is
        return converter.to_coreai()


def prepared(component: Component, precision: str) -> ExportedProgram:
    """The exported program in the operations and types that Apple's converter is to be given."""
    from coreai_torch import get_decomp_table

    def prepare(program: ExportedProgram) -> ExportedProgram:
        program = program.run_decompositions(get_decomp_table())
        if precision == "float16":
            to_half_(program)
        return program

    return stamped(component, prepare) if component.segments else prepare(exported(component))


def naming_converter(names: Mapping[str, str]) -> Any:
    """Apple's converter, which forgets the names of parameters; `names` gives them by their names in the graph."""
    from coreai._compiler.ir import StringAttr
    from coreai_torch import TorchConverter

    class NamingConverter(TorchConverter):
        def _handle_placeholder_op(self, node: torch.fx.Node) -> None:
            super()._handle_placeholder_op(node)
            if node.name in names:
                made: Any = self._values_map[node.name].owner
                made.attributes[WEIGHT] = StringAttr.get(names[node.name])

    return NamingConverter(mode=TorchConverter.Mode.RELEASE)  # the other mode keeps paths of source files
