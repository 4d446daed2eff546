"""The gate's measure, and that a gate shut is a gate shut."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny import TINY

from edgegen.errors import EdgegenError, VerificationError
from edgegen.model.random_checkpoint import random_checkpoint
from edgegen.model.sampler import flow_sigmas
from edgegen.pipeline.draw import draw
from edgegen.pipeline.networks import features
from edgegen.pipeline.torch import TorchNetworks
from edgegen.verify import MAX_DB, Case, compare, make_reference, psnr, require, write_rows

finite = st.floats(-1e6, 1e6, width=32)
arrays = hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=6), elements=finite)
SHAPE = (1, 4, 8, 8)


@given(arrays)
def test_equal_arrays_reach_the_cap(x):
    assert psnr(x, x.copy()) == MAX_DB


@given(arrays, st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(0))
def test_a_single_value_that_is_not_finite_is_the_worst_there_is(x, bad, at):
    value = x.copy()
    value.flat[at % x.size] = bad
    assert psnr(x, value) == -MAX_DB


@given(arrays, arrays)
def test_the_result_is_always_a_finite_number(x, y):
    result = psnr(x, y)
    assert math.isfinite(result) and -MAX_DB <= result <= MAX_DB
    if x.shape == y.shape and np.array_equal(x, y):
        assert result == MAX_DB
    elif result == MAX_DB:  # as good as equal: differences that 200 dB do not tell apart
        peak = float(np.abs(x).max())
        assert np.abs(x.astype(np.float64) - y).max() <= 1.001e-10 * peak * x.size**0.5


@given(st.integers(1, 100), st.floats(1e-3, 1e3), st.floats(1e-6, 1e-1))
def test_a_constant_error_gives_the_textbook_value(size, peak, relative):
    reference = np.linspace(-peak, peak, size) if size > 1 else np.array([peak])
    assert psnr(reference, reference + peak * relative) == pytest.approx(-20 * math.log10(relative), abs=1e-6)


@settings(deadline=None)
@given(arrays.filter(lambda x: x.size > 1), st.permutations(range(4)))
def test_the_order_and_layout_of_elements_do_not_matter(x, order):
    y = x + np.float32(0.5)
    axes = [axis for axis in order if axis < x.ndim]
    assert psnr(x, y) == pytest.approx(psnr(x.transpose(axes), y.transpose(axes)))
    assert psnr(x, y) == pytest.approx(psnr(x.ravel(), y.ravel()))


@given(arrays.filter(lambda x: np.abs(x).max() > 1e-3), st.floats(1e-3, 0.1))
def test_a_larger_error_never_scores_higher(x, step):
    x = x.astype(np.float64)
    assert psnr(x, x + 2 * step) <= psnr(x, x + step)


def test_a_reference_that_is_not_finite_cannot_be_compared_with():
    with pytest.raises(EdgegenError, match="reference is not finite"):
        psnr(np.array([np.nan]), np.array([1.0]))


def test_the_worst_of_all_inputs_and_outputs_counts(tmp_path):
    good, poor = np.ones((2, 2), np.float32), np.full((2, 2), 1.1, np.float32)
    cases = [Case({"x": good}, {"a": good, "b": good}), Case({"x": poor}, {"a": good, "b": good})]
    row = compare(lambda feed: {"a": good, "b": feed["x"]}, cases, "decoder", "onnx", 100)
    assert row.psnr_db == pytest.approx(20, abs=0.01) and row.max_abs == pytest.approx(0.1) and not row.passed
    assert row.inputs == 2
    with pytest.raises(VerificationError, match="decoder on onnx reached 20.0 dB, its floor is 100 dB") as caught:
        require([row], "")
    assert caught.value.exit_code == 1


def test_an_output_that_is_not_finite_fails_and_stays_json(tmp_path):
    one = np.ones(3, np.float32)
    row = compare(lambda feed: {"a": one * np.inf}, [Case({}, {"a": one})], "decoder", "onnx", 1)
    assert not row.finite and not row.passed and "not finite" in row.reason()
    write_rows(tmp_path, [row])
    assert json.loads((tmp_path / "verify.json").read_text())[0]["psnr_db"] == -MAX_DB


def test_nothing_compared_does_not_pass():
    assert not compare(lambda feed: {}, [], "decoder", "onnx", 1).passed


@pytest.fixture(scope="module")
def networks():
    return TorchNetworks(random_checkpoint(TINY), 0.5)


def test_cases_lie_on_the_trajectory_of_the_original(networks):
    sigmas = flow_sigmas(5, 3.0)
    reference = make_reference(networks, SHAPE, sigmas, 2.0, ("a red heart", "a cat"), large=False)
    assert len(reference.cases["transformer"]) == 8
    used = {tuple(case.feed["timestep_features"].ravel()) for case in reference.cases["transformer"]}
    assert used <= {tuple(features(sigma, 16).ravel()) for sigma in sigmas[:-1]} and len(used) >= 3
    for case in reference.cases["transformer"]:
        assert np.isfinite(case.expected["velocity"]).all() and case.expected["velocity"].std() > 0
    picture = draw(networks, "a red heart", SHAPE, sigmas, 2.0, 0)
    assert np.array_equal(picture, reference.picture)


def test_guidance_one_takes_one_pass_a_step(networks):
    sigmas = flow_sigmas(4)
    for guidance, passes in ((1.0, 1), (2.0, 2)):
        calls = []

        class Counting:
            tokenizers, encode, decode = networks.tokenizers, networks.encode, networks.decode

            def velocity(self, latent, sigma, condition, calls=calls):
                calls.append(sigma)
                return networks.velocity(latent, sigma, condition)

        draw(Counting(), "a cat", SHAPE, sigmas, guidance, 0)
        assert len(calls) == 4 * passes


def test_a_trajectory_that_leaves_the_numbers_is_an_error(networks):
    class Broken:
        tokenizers, encode, decode = networks.tokenizers, networks.encode, networks.decode

        def velocity(self, latent, sigma, condition):
            return latent * np.nan

    with pytest.raises(EdgegenError, match="not finite after step 1 of 4"):
        draw(Broken(), "a cat", SHAPE, flow_sigmas(4), 1.0, 0)
