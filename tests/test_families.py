"""Every family, in random configurations, on every back end: its files compute what diffusers' module does."""

import tempfile
from pathlib import Path

import pytest
from foreign import FAMILIES, pixart, sana, sd3, source
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from edgegen.backends.registry import find_backend
from edgegen.capture.deploy import deploy
from edgegen.foreign.export import Recorded, record
from edgegen.pipeline.artifact import open_component
from edgegen.rewrite.component import Form
from edgegen.target import load_tier
from edgegen.verify import compare

TIER = load_tier("high-phone")
FLOORS = {"onnx": 100.0, "executorch": 80.0, "coreml": 60.0}
KINDS = FAMILIES | {
    "pixart_alpha": lambda **k: pixart(sigma=False, **k), "sana_sprint": lambda **k: sana(sprint=True, **k),
    "sd3_small": lambda **k: sd3(large=False, **k),
}  # fmt: skip
HEADS = {  # where one head will not do: benchmarks/foreign_networks
    "pixart": (3, 6),
    "pixart_alpha": (3, 6),
    "lumina_next": (4, 8),  # two key heads at least: with one, XNNPACK fails
    "sana": (2, 3),  # at 16 channels XNNPACK's approximations leave 78 dB
    "sana_sprint": (2, 3),
}


def reached(recorded: Recorded, backend: str, folder: Path) -> float:
    """PSNR of a written file over fresh inputs, the lowest."""
    target, record_of = TIER.backend(backend), find_backend(backend)
    component = deploy(recorded.traced, Form(target.attention, target.query_chunk, target.operations))
    path = folder / f"network{record_of.suffix}"
    record_of.write(component, path, target, {})
    inputs, outputs = record_of.signature(component, target)
    run = open_component(backend, path, tuple(inputs), tuple(outputs))
    row = compare(run, recorded.cases, "network", backend, FLOORS[backend])
    assert row.inputs == len(recorded.cases)
    return row.psnr_db


def check(name: str, backend: str, data: st.DataObject) -> None:
    """One random configuration of a family, written, opened and run."""
    heads = data.draw(st.sampled_from(HEADS.get(name, (1, 2, 3))), "heads")
    size = 8 if name == "lumina_next" else data.draw(st.sampled_from((16, 32)), "size")
    height, width = data.draw(st.sampled_from(((4, 12), (8, 8), (12, 4))), "grid")
    tokens = data.draw(st.integers(3, 12), "tokens")
    recorded = record(source(*KINDS[name](heads=heads, size=size, layers=1), height, width, tokens))
    assert len(recorded.cases) == 3
    with tempfile.TemporaryDirectory() as folder:
        assert reached(recorded, backend, Path(folder)) >= FLOORS[backend]


FEW = dict(deadline=None, derandomize=True, phases=[Phase.generate])  # a file takes seconds: none is made smaller


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=2, **FEW)
@given(data=st.data())
def test_onnx_computes_random_configurations(name, data):
    check(name, "onnx", data)


@pytest.mark.parametrize(("name", "backend"), [(n, b) for n in KINDS for b in FLOORS if b != "onnx"])
@settings(max_examples=1, **FEW)
@given(data=st.data())
def test_xnnpack_and_core_ml_compute_a_random_configuration(name, backend, data):
    check(name, backend, data)
