"""Builds small Core ML packages with coremltools' MIL builder, for the tests of the evaluator."""

import math
from collections.abc import Callable
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program, types

from edgegen.runtime.coreml import CoreMLProgram

IOS17, IOS18 = ct.target.iOS17, ct.target.iOS18
MIL_DTYPES = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32}

rng = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return rng.uniform(0.2, 3.0, shape).astype(np.float32)


def integers(low: int, high: int, *shape: int) -> np.ndarray:
    return rng.integers(low, high, shape).astype(np.int32)


def save(path, inputs: dict[str, np.ndarray], build: Callable[..., dict[str, Any]], target=IOS17) -> str:
    """Saves the program that `build(**variables)` writes with the MIL builder; it returns outputs by name."""
    program = Program()
    placeholders = {
        name: mb.placeholder(value.shape, dtype=MIL_DTYPES[value.dtype.name]) for name, value in inputs.items()
    }
    with Function(placeholders, opset_version=target) as function:
        outputs = build(**function.inputs)
        for name, variable in outputs.items():
            variable.name = name
        function.set_outputs(list(outputs.values()))
    program.add_function("main", function)
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=target,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,  # operations stay as written
        skip_model_load=True,
    )
    model.save(str(path))
    return str(path)


def evaluate(path, inputs: dict[str, np.ndarray], build, target=IOS17, fp16: bool = True) -> dict[str, np.ndarray]:
    return CoreMLProgram.load(save(path, inputs, build, target)).run(inputs, fp16=fp16)


def psnr(reference: np.ndarray, value: np.ndarray) -> float:
    reference, value = reference.astype(np.float64), value.astype(np.float64)
    assert np.isfinite(value).all()
    error = np.mean((reference - value) ** 2)
    return math.inf if error == 0 else 10 * math.log10(np.abs(reference).max() ** 2 / error)
