"""Allocation: against every plan there is on small cases, and its budget on the bundled model's layers."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegen.errors import InputError
from edgegen.model.config import PRESETS
from edgegen.model.elastic import skeleton
from edgegen.quantize.allocate import TOLERANCE, allocate, reachable, read_bits, write_plan
from edgegen.quantize.layers import quantizable
from edgegen.quantize.palette import BITS, palette_bytes
from edgegen.quantize.sensitivity import Sensitivity


def layer(name: str, shape: tuple[int, ...], errors: dict[int, float]) -> Sensitivity:
    count = int(np.prod(shape))
    sizes = {bits: palette_bytes(count, bits) for bits in errors}
    return Sensitivity(name, shape, count, 2.0, errors, sizes, {bits: 5 * error for bits, error in errors.items()})


def random_layers(shapes: dict[str, tuple[int, ...]], candidates: tuple[int, ...], seed: int) -> list[Sensitivity]:
    """Errors that fall by about 4 a bit, as clustering's do, of layers that differ by orders of magnitude."""
    g = np.random.default_rng(seed)
    return [
        layer(name, shape, {bits: float(scale * 4.0**-bits * g.uniform(0.7, 1.3)) for bits in candidates})
        for (name, shape), scale in zip(shapes.items(), np.exp(3 * g.standard_normal(len(shapes))), strict=True)
    ]


def bundled(width: float) -> dict[str, tuple[int, ...]]:
    return {name: tuple(w.shape) for name, w in quantizable(skeleton(PRESETS["emoji"].at(width))).items()}


SHAPES = {1.0: bundled(1.0), 0.375: bundled(0.375)}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(SHAPES)), st.sets(st.sampled_from(BITS), min_size=2), st.floats(0, 1), st.integers(0, 1000))
def test_the_budget_is_met_on_the_bundled_model(width, candidates, share, seed):
    layers = random_layers(SHAPES[width], tuple(sorted(candidates)), seed)
    least, most = reachable(layers)
    budget = least + share * (most - least)
    plan = allocate(layers, budget)
    assert budget - TOLERANCE <= plan.average_bits <= budget + 1e-9
    assert set(plan.bits) == set(SHAPES[width]) and set(plan.bits.values()) <= candidates
    total = sum(palette_bytes(int(np.prod(shape)), plan.bits[name]) for name, shape in SHAPES[width].items())
    assert plan.average_bits == pytest.approx(8 * total / sum(int(np.prod(s)) for s in SHAPES[width].values()))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6), st.sets(st.sampled_from(BITS), min_size=1, max_size=3), st.floats(0, 1), st.integers(0, 10_000)
)
def test_small_cases_get_the_best_of_all_plans(count, candidates, share, seed):
    g = np.random.default_rng(seed)
    shapes = {f"l{i}": (int(g.integers(64, 200)), int(g.integers(64, 200))) for i in range(count)}
    layers = random_layers(shapes, tuple(sorted(candidates)), seed)
    least, most = reachable(layers)
    budget = least + share * (most - least)
    elements = sum(one.count for one in layers)
    plans = [
        (
            sum(one.output[b] for one, b in zip(layers, bits, strict=True)),
            8 * sum(one.bytes[b] for one, b in zip(layers, bits, strict=True)) / elements,
        )
        for bits in itertools.product(sorted(candidates), repeat=count)
    ]
    plan = allocate(layers, budget)
    assert plan.average_bits <= budget + 1e-9
    fitting = [(error, bits) for error, bits in plans if bits <= budget + 1e-9]
    near = [error for error, bits in fitting if bits >= budget - 0.8 * TOLERANCE]
    tight = [error for error, bits in fitting if bits <= budget * (1 - 1e-4)]  # sizes are rounded up by 1e-5
    best = min(near or [error for error, _ in fitting])
    assert plan.error >= best * (1 - 1e-12) or not near
    if not near and tight:
        assert plan.error <= min(tight) * (1 + 1e-9)


def test_bits_go_where_they_help_most():
    layers = [
        layer("calm", (100, 100), {4: 1e-6, 8: 1e-9}),
        layer("tense", (100, 100), {4: 1.0, 8: 1e-3}),
        layer("calm too", (100, 100), {4: 1e-6, 8: 1e-9}),
    ]
    plan = allocate(layers, 5.5)
    assert plan.bits == {"calm": 4, "tense": 8, "calm too": 4}
    assert plan.error == pytest.approx(1e-3 + 2e-6)


def test_more_budget_never_costs():
    layers = random_layers(SHAPES[0.375], (2, 3, 4, 6, 8), 3)
    errors = [allocate(layers, budget).error for budget in (2.2, 3.0, 3.7, 4.3, 5.0, 6.5, 7.9, 9.0)]
    assert errors == sorted(errors, reverse=True)


def test_the_measure_decides():
    a = Sensitivity("a", (100, 100), 10_000, 100.0, {4: 1.0, 8: 0.1}, {4: 5020, 8: 10260}, {4: 1e-3, 8: 1e-4})
    b = Sensitivity("b", (100, 100), 10_000, 0.1, {4: 0.5, 8: 0.05}, {4: 5020, 8: 10260}, {4: 2e-3, 8: 1e-4})
    assert allocate([a, b], 6.2, "output").bits == {"a": 8, "b": 4}
    assert allocate([a, b], 6.2, "relative").bits == {"a": 4, "b": 8}
    assert allocate([a, b], 6.2, "velocity").bits == {"a": 4, "b": 8}
    with pytest.raises(InputError, match="unknown measure 'outputs'.*Did you mean output"):
        allocate([a, b], 6.2, "outputs")
    unmeasured = Sensitivity("c", (100, 100), 10_000, 1.0, {4: 1.0, 8: 0.1}, {4: 5020, 8: 10260})
    with pytest.raises(InputError, match="velocity was not measured"):
        allocate([unmeasured], 6.2, "velocity")


def test_a_budget_out_of_reach_says_the_range():
    layers = random_layers(SHAPES[1.0], (4, 8), 0)
    least, most = reachable(layers)
    with pytest.raises(InputError, match=r"3\.5 bits.*candidates 4, 8.*reach 4\.002 to 8\.0"):
        allocate(layers, 3.5)
    with pytest.raises(InputError, match="a budget of 12 bits"):
        allocate(layers, 12)
    assert set(allocate(layers, np.ceil(least * 1000) / 1000).bits.values()) == {4}
    assert set(allocate(layers, most).bits.values()) == {8}


def test_a_plan_is_a_file_that_can_be_edited(tmp_path):
    layers = random_layers(SHAPES[0.375], (4, 8), 1)
    path = tmp_path / "plan.json"
    plan = allocate(layers, 4.3)
    write_plan(path, plan)
    names = list(SHAPES[0.375])
    assert read_bits(path, names) == plan.bits
    values = json.loads(path.read_text())
    entry = values["layers"]["down.0.ffn.up.weight"]
    assert entry["shape"] == [480, 120] and set(entry["errors"]) == {"4", "8"}
    entry["bits"] = 6
    del values["layers"]["patch.weight"]
    path.write_text(json.dumps(values))
    edited = read_bits(path, names)
    assert edited["down.0.ffn.up.weight"] == 6 and "patch.weight" not in edited


def test_wrong_plans_are_refused(tmp_path):
    path = tmp_path / "plan.json"
    names = list(SHAPES[0.375])

    def attempt(content: str):
        path.write_text(content)
        return read_bits(path, names)

    def of(layers: dict) -> str:
        return json.dumps({"format_version": 1, "layers": layers})

    with pytest.raises(InputError, match="no palettized layer is called 'down.0.atn.q.weight'.*down.0.attn.q.weight"):
        attempt(of({"down.0.atn.q.weight": {"bits": 4}}))
    for bits in (5, 4.0, "4", True, None):
        with pytest.raises(InputError, match="patch.weight has bits .* none of 1, 2, 3, 4, 6, 8"):
            attempt(of({"patch.weight": {"bits": bits}}))
    for content in ("[]", "{}", of({}), json.dumps({"format_version": 9, "layers": {"patch.weight": {"bits": 4}}})):
        with pytest.raises(InputError, match="lacks its layers, or its format_version"):
            attempt(content)
    with pytest.raises(InputError, match="is not JSON"):
        attempt("layers: 4")
    with pytest.raises(InputError, match="none.json is missing"):
        read_bits(tmp_path / "none.json", names)
