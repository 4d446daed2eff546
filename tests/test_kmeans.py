"""Clustering: the fast solver against two references, exact dynamic programming and scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegen.quantize.histogram import Histogram, assign, codes_of, histogram
from edgegen.quantize.intervals import Sums, compand
from edgegen.quantize.kmeans import cluster, exact, squared_error
from edgegen.quantize.partition import shortest, splice


def histogram_of(values) -> Histogram:
    return histogram(codes_of(torch.as_tensor(np.asarray(values), dtype=torch.float16)))


def brute_force(h: Histogram, clusters: int) -> float:
    """Least error over all partitions, by recursion over cuts."""
    n = h.values.size
    best = np.full((clusters + 1, n + 1), np.inf)
    best[0, 0] = 0
    for k in range(1, clusters + 1):
        for j in range(1, n + 1):
            for i in range(j):
                x, w = h.values[i:j], h.weights[i:j]
                best[k, j] = min(best[k, j], best[k - 1, i] + (w * (x - np.average(x, weights=w)) ** 2).sum())
    return best[1:, n].min()


SHAPES = {
    "normal": lambda g, n: g.standard_normal(n) * 0.05,
    "heavy tails": lambda g, n: g.standard_t(3, n) * 0.02,
    "even": lambda g, n: g.uniform(-0.1, 0.1, n),
    "two scales": lambda g, n: g.standard_normal(n) * np.where(g.random(n) < 0.5, 0.001, 0.3),
    "separate modes": lambda g, n: g.standard_normal(n) * 0.01 + g.integers(-3, 4, n),
    "one side": lambda g, n: np.exp(2 * g.standard_normal(n)) * 0.01,
    "few values": lambda g, n: g.choice(g.standard_normal(700), n),
}


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_fast_solver_reaches_the_optimum(shape, bits):
    h = histogram_of(SHAPES[shape](np.random.default_rng(0), 6000))
    optimum = squared_error(h, exact(h, 2**bits))
    assert squared_error(h, cluster(h, 2**bits)) == pytest.approx(optimum, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_weighted_histogram_reaches_the_optimum(data):
    count = data.draw(st.integers(1, 300))
    g = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    gaps = g.choice([1.0, 1.0, 1e-3, 50.0], count)  # equal gaps make many partitions equally good
    weights = g.choice([1.0, 1.0, 3.0, 1e-3, 1e3], count)
    h = Histogram(np.cumsum(gaps), weights)
    clusters = data.draw(st.sampled_from([1, 2, 3, 7, 16, 64, 256]))
    found = cluster(h, clusters)
    assert found.size <= clusters and (np.diff(found) > 0).all()
    optimum = squared_error(h, exact(h, clusters))
    assert squared_error(h, found) <= optimum * (1 + 1e-9) + 1e-9 * h.total


def test_one_cluster_fewer_than_values_of_very_different_gaps():
    g = np.random.default_rng(0)
    h = Histogram(np.cumsum(g.choice([1.0, 1.0, 1e-3, 50.0], 257)), g.choice([1.0, 1.0, 3.0, 1e-3, 1e3], 257))
    assert np.isclose(squared_error(h, cluster(h, 256)), squared_error(h, exact(h, 256)), atol=1e-9 * h.total)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-40, 40), min_size=1, max_size=9), st.integers(1, 4))
def test_the_reference_is_the_best_of_all_partitions(values, clusters):
    h = histogram_of(values)
    assert squared_error(h, exact(h, clusters)) == pytest.approx(brute_force(h, clusters), abs=1e-9)


@pytest.mark.parametrize("bits", [2, 4])
def test_scikit_learn_is_not_better(bits):
    KMeans = pytest.importorskip("sklearn.cluster", reason="needs the extra [test]").KMeans
    x = np.random.default_rng(1).standard_normal(4000).astype(np.float16)
    theirs = KMeans(2**bits, n_init=5, random_state=0).fit(x.astype(np.float64)[:, None])
    ours = squared_error(histogram_of(x), cluster(histogram_of(x), 2**bits))
    assert ours <= theirs.inertia_ * (1 + 1e-9)
    assert ours >= theirs.inertia_ * 0.97  # five starts come close: the two measure the same thing


def test_importance_moves_centroids_to_where_it_is():
    x = np.random.default_rng(2).standard_normal(5000).astype(np.float16)
    importance = np.where(x > 0, 100.0, 1.0)
    h = histogram(x.view(np.uint16), importance)
    assert h.total == pytest.approx(importance.sum())
    weighted, plain = cluster(h, 16), cluster(histogram_of(x), 16)
    assert (weighted > 0).sum() > (plain > 0).sum()
    assert squared_error(h, weighted) < squared_error(h, plain)


def test_equal_values_with_equal_gaps_are_split_between_neighbouring_solutions():
    """For some numbers of clusters no charge gives just them: the solver joins a finer and a coarser partition."""
    h = Histogram(np.arange(40.0), np.ones(40))
    for clusters in range(1, 41):
        assert squared_error(h, cluster(h, clusters)) == pytest.approx(squared_error(h, exact(h, clusters)), abs=1e-9)
    sums = Sums.of(h)
    coarse, fine = np.array([0, 10, 20, 30, 40]), np.array([0, 5, 10, 15, 20, 25, 30, 35, 40])
    for intervals in (5, 6, 7):
        joined = splice(sums, coarse, fine, intervals)
        assert joined.size == intervals + 1 and joined[0] == 0 and joined[-1] == 40


def test_more_charge_gives_fewer_intervals():
    h = histogram_of(np.random.default_rng(3).standard_normal(3000))
    before = shortest(Sums.of(h), np.array([1e-3, 1e-1, 10.0, 1e6]))
    counts = []
    for row in before:
        cut, count = row.size - 1, 0
        while cut:
            cut, count = row[cut], count + 1
        counts.append(count)
    assert counts == sorted(counts, reverse=True) and counts[-1] == 1 and counts[0] > 16


def test_a_histogram_counts_every_value_once_and_in_order():
    x = np.random.default_rng(4).standard_normal(10_000).astype(np.float16)
    x[:3] = [0.0, -0.0, 6e-8]  # both zeros, a subnormal
    h = histogram_of(x)
    values, counts = np.unique(x.astype(np.float64), return_counts=True)
    assert (h.values == values).all() and (h.weights == counts).all()


def test_assignment_is_to_the_nearest():
    x = np.random.default_rng(5).standard_normal(2000).astype(np.float16)
    table = np.sort(np.random.default_rng(6).standard_normal(16))
    nearest = np.abs(x.astype(np.float64)[:, None] - table).argmin(1)
    assert (assign(x.view(np.uint16), table) == nearest).all()


def test_the_companded_coordinate_spaces_cuts_evenly():
    """Cuts of the optimum lie about evenly in it: that is what makes it a start."""
    h = histogram_of(np.random.default_rng(7).standard_normal(100_000))
    centroids = cluster(h, 64)
    cuts = np.searchsorted(h.values, (centroids[1:] + centroids[:-1]) / 2)
    steps = np.diff(compand(h)[cuts])
    assert steps.min() > 0.6 * steps.mean() and steps.max() < 1.6 * steps.mean()
