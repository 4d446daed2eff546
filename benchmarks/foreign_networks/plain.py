"""What there is without edgegen: a module through torch.onnx.export and coremltools, in every way that loads."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgegen.capture.specialize import leaf_names
from edgegen.foreign.source import Source
from edgegen.quiet import quietly

WAYS = {  # arguments of torch.onnx.export; the fastest that loads is the plain export of a family
    "dynamo, opset 23": {"dynamo": True, "opset_version": 23},
    "dynamo, opset 20": {"dynamo": True, "opset_version": 20},
    "traced, opset 20": {"dynamo": False, "opset_version": 20},
}

OPTIMUM = {"SD3Transformer2DModel", "FluxTransformer2DModel", "SanaTransformer2DModel"}  # what optimum-onnx 0.1.0 knows


class Called(nn.Module):
    """A module called with the tensors among its arguments that vary, in the order of `names`."""

    def __init__(self, source: Source):
        super().__init__()
        source = without_edgegen(source)
        self.module, self.arguments, self.constant = source.module, dict(source.arguments), set(source.constant)
        self.names = tuple(n for n, leaf in leaf_names(self.arguments) if self._varies(n, leaf))

    def _varies(self, name: str, leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and name not in self.constant

    def given(self) -> tuple[Tensor, ...]:
        """The varying tensors among the module's arguments."""
        return tuple(leaf for name, leaf in leaf_names(self.arguments) if self._varies(name, leaf))

    def forward(self, *tensors: Tensor) -> Any:
        _, spec = pytree.tree_flatten(self.arguments)
        rest = iter(tensors)
        leaves = [next(rest) if self._varies(n, leaf) else leaf for n, leaf in leaf_names(self.arguments)]
        made = self.module(**pytree.tree_unflatten(leaves, spec), return_dict=False)[0]
        return torch.stack(list(made)) if isinstance(made, (list, tuple)) else made


def without_edgegen(source: Source) -> Source:
    """The module as diffusers has it, where ours wraps it for captions of any length: with the caption of the example,
    of whose length its program then is.
    """
    network = getattr(source.module, "network", None)
    if network is None:
        return source
    given = dict(source.inputs(0))
    if "cap_feats" in given:  # Z-Image fills a caption itself
        kept = given["cap_kept"][0] & ~given["cap_filling"][0]
        given = {"x": [given["x"]], "t": given["t"], "cap_feats": [given["cap_feats"][0, kept]]}
        return replace(source, module=network, arguments=given)
    kept = given["encoder_attention_mask"][0].bool()
    given["encoder_hidden_states"] = given["encoder_hidden_states"][:, kept]
    given["encoder_attention_mask"] = torch.ones(1, int(kept.sum()), dtype=torch.bool)
    return replace(source, module=network, arguments=given, constant=("encoder_attention_mask",))


def write_onnx(called: Called, path: Path, settings: dict[str, Any]) -> None:
    """torch.onnx.export of a module; what it raises comes out."""
    tensors = called.given()
    common = {"input_names": list(called.names), "verbose": False, **settings}
    if settings["dynamo"]:
        quietly(lambda: torch.onnx.export(called, tensors, **common).save(str(path)))  # type: ignore[union-attr]
    else:
        quietly(lambda: torch.onnx.export(called, tensors, str(path), **common))


def write_optimum(interpreter: Path, source: Source, path: Path) -> None:
    """optimum-onnx's export of a module, by an interpreter that has it; RuntimeError tells its last line."""
    folder, latents = path.with_suffix(".diffusers"), source.arguments["hidden_states"]
    tokens = source.arguments["encoder_hidden_states"].shape[1]
    side = latents.shape[-1] if latents.ndim == 4 else 2 * round(latents.shape[1] ** 0.5)  # FLUX.1's are packed
    source.module.save_pretrained(folder)
    script = Path(__file__).with_name("optimum_export.py")
    line = [str(interpreter), str(script), str(folder), str(path), str(side), str(side), str(tokens)]
    done = subprocess.run(line, capture_output=True, text=True, env={"PATH": ""})
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])


def write_coreml(called: Called, path: Path) -> tuple[str, ...]:
    """coremltools' conversion of a module to fp16, by export or by trace; the program's inputs in order."""
    import coremltools as ct

    tensors = called.given()
    common = {"minimum_deployment_target": ct.target.iOS17, "compute_precision": ct.precision.FLOAT16,
              "skip_model_load": True}  # fmt: skip

    def by_export() -> tuple[str, ...]:
        program = torch.export.export(called, tensors, strict=False).run_decompositions({})
        ct.convert(program, **common).save(str(path))
        return tuple(program.graph_signature.user_inputs)

    def by_trace() -> tuple[str, ...]:
        traced = torch.jit.trace(called, tensors, check_trace=False)
        kinds = {torch.int64: np.int32, torch.int32: np.int32}
        inputs = [ct.TensorType(n, t.shape, kinds.get(t.dtype, np.float32))
                  for n, t in zip(called.names, tensors, strict=True)]  # fmt: skip
        ct.convert(traced, inputs=inputs, **common).save(str(path))
        return called.names

    with torch.no_grad():
        return first_of([by_export, by_trace])


def first_of(tries: list[Callable[[], Any]]) -> Any:
    """What the first of several ways gives that works; the first one's error where none does."""
    errors: list[Exception] = []
    for work in tries:
        try:
            return quietly(work)
        except Exception as error:  # whatever a converter raises
            errors.append(error)
    raise errors[0]


@contextlib.contextmanager
def real_rotations(called: Called) -> Iterator[None]:
    """Within it the module turns pairs of channels by tables of real numbers, and joins sequences of one length with a
    stack: no exporter takes complex numbers or pad_sequence. The tables are those of one run on the example.
    """
    tables: list[tuple[Tensor, Tensor]] = []
    with turning(lambda table: tables.append((table.real.float(), table.imag.float())) or tables[-1]), torch.no_grad():
        called(*called.given())
    rest = iter(tables)

    def begin(*given: Any) -> None:
        nonlocal rest
        rest = iter(tables)

    hook = called.register_forward_pre_hook(begin)
    try:
        with turning(lambda table: next(rest)):
            yield
    finally:
        hook.remove()


@contextlib.contextmanager
def turning(table_of: Callable[[Any], tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Puts pairs of real numbers for torch's complex views; their products are with what `table_of` gives."""
    import diffusers.models.transformers.transformer_z_image as z_image

    class Pairs:
        def __init__(self, pairs: Tensor):
            self.pairs, self.shape = pairs, pairs.shape[:-1]

        def __mul__(self, table: Any) -> Pairs:
            (cos, sin), (a, b) = table_of(table), self.pairs.unbind(-1)
            return Pairs(torch.stack([a * cos - b * sin, a * sin + b * cos], -1))

    kept = torch.view_as_complex, torch.view_as_real, z_image.pad_sequence
    torch.view_as_complex = Pairs  # type: ignore[assignment]
    torch.view_as_real = lambda value: value.pairs if isinstance(value, Pairs) else kept[1](value)  # type: ignore
    z_image.pad_sequence = lambda rows, batch_first=False, padding_value=0.0: torch.stack(list(rows))
    try:
        yield
    finally:
        torch.view_as_complex, torch.view_as_real, z_image.pad_sequence = kept
