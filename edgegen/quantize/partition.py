"""The best partition of a sorted histogram into k intervals, exactly, in time that hardly grows with k.

Interval errors are concave Monge, so the least error of k intervals is convex in k: charge lambda an interval, and the
cheapest partition of any number of intervals has, for some lambda, k of them; then it is the best of k (Aggarwal,
Schieber, Tokuyama 1994). The cheapest partition up to cut j is the shortest path F(j) = min_i F(i) + error(i, j) +
lambda, and its best i grows with j. Several lambdas and a block of cuts are done at once, since NumPy charges by the
call.
"""

from __future__ import annotations

import numpy as np

from edgegen.quantize.intervals import Sums, even_cuts

BLOCK = (16, 80)  # fewest and most cuts done at once
CELLS = 8  # an interval of the coarse problem, which only tells where to look for lambda
LANES = 8  # lambdas done at once
ROUNDS = 60


def best_cuts(sums: Sums, intervals: int, coordinate: np.ndarray) -> np.ndarray | None:
    """Cuts (intervals + 1,) of least total error; `coordinate` (n,) spaces good cuts about evenly. n > intervals.

    None where rounding hides every lambda that would give them, as where nearly all values are intervals of their own.
    """
    start = even_cuts(coordinate, intervals)
    charge, doubt = 2 * sums.total(start) / intervals, 0.3  # the slope of C / k^2
    cells = even_cuts(coordinate, CELLS * intervals)
    if cells.size < sums.count // 2:
        charge, doubt = _estimate(sums.at(cells), intervals, charge, doubt), 0.04
    return _search(sums, intervals, charge, doubt)


def _estimate(sums: Sums, intervals: int, charge: float, doubt: float) -> float:
    """Roughly the lambda whose cheapest partition has so many intervals, read off those of other lambdas."""
    charges = charge * np.geomspace(1 - doubt, 1 / (1 - doubt), LANES)
    found: dict[float, int] = {}
    for _ in range(ROUNDS):
        found |= {float(lam): cuts.size - 1 for lam, cuts in zip(charges, _paths(shortest(sums, charges)), strict=True)}
        if max(found.values()) <= intervals:
            charges = min(found) * np.geomspace(0.1, 0.9, LANES)
        elif min(found.values()) >= intervals:
            charges = max(found) * np.geomspace(1.1, 10, LANES)
        else:
            break
    lams = np.array(sorted(found))
    ks = -np.array([found[lam] for lam in lams])  # ascending
    return float(np.exp(np.interp([-intervals - 0.5, -intervals + 0.5], ks, np.log(lams)).mean()))


def _search(sums: Sums, intervals: int, charge: float, doubt: float) -> np.ndarray | None:
    """The best cuts; their lambda is looked for around `charge`, which is wrong by a factor of 1 +- doubt or so."""
    lanes = int(np.clip(0.04 * intervals, 1, LANES))  # k keeps over a stretch of about 3 / k of lambda
    charges: np.ndarray = charge * (1 + doubt * (2 * np.arange(lanes) + 1 - lanes) / lanes)
    finer, coarser = (0.0, np.array([0])), (np.inf, np.array([0]))  # lambda and cuts of more and of fewer intervals
    for _ in range(ROUNDS):
        for lam, cuts in zip(charges, _paths(shortest(sums, charges)), strict=True):
            if cuts.size - 1 == intervals:
                return cuts
            if cuts.size - 1 > intervals and lam > finer[0]:
                finer = float(lam), cuts
            elif cuts.size - 1 < intervals and lam < coarser[0]:
                coarser = float(lam), cuts
        if coarser[0] == np.inf:
            charges = finer[0] * (1 + doubt) ** np.arange(1, lanes + 1)
        elif finer[0] == 0:
            charges = coarser[0] / (1 + doubt) ** np.arange(1, lanes + 1)
        elif coarser[0] - finer[0] <= 1e-12 * coarser[0]:
            break
        else:
            charges = _between(finer, coarser, intervals, lanes)
        doubt *= 3
    return splice(sums, coarser[1], finer[1], intervals)


def _between(
    finer: tuple[float, np.ndarray], coarser: tuple[float, np.ndarray], intervals: int, lanes: int
) -> np.ndarray:
    """Lambdas inside a bracket, most of them close to where k would lie if log k were linear in log lambda."""
    low, high = finer[0], coarser[0]
    more, fewer = finer[1].size - 1, coarser[1].size - 1
    if lanes == 1:
        return np.array([np.sqrt(low * high)])
    share = np.log(more / intervals) / np.log(more / fewer)
    even = (np.arange(lanes) + 0.5) / lanes
    shares = np.clip(np.concatenate([even[::2], share + (even[1::2] - 0.5) * 0.3]), 0.02, 0.98)
    return low * (high / low) ** np.sort(shares)


def shortest(sums: Sums, charges: np.ndarray) -> np.ndarray:
    """The best cut before every cut (L, n + 1) on the cheapest partition up to it, for each lambda (L,)."""
    count, lanes = sums.count, charges.size
    w, f, second = sums.weight, sums.first, sums.second
    charge = charges[:, None]
    reduced = np.empty((lanes, count + 1))  # F(j) - second(j): what of F(j) depends on the cut before
    reduced[:, 0] = 0
    before = np.zeros((lanes, count + 1), np.int32)
    low, first = 0, 1  # the least cut that can still be best; the next cut to do
    while first <= count:
        size = min(max(BLOCK[0], min((first - low) // 2, BLOCK[1])), count + 1 - first)
        last = first + size  # the block is first .. last - 1
        gain = f[last - 1] - f[low:first]
        gain *= gain
        gain /= w[last - 1] - w[low:first]
        high = low + int((reduced[:, low:first] - gain).argmin(1).max()) + 1  # no earlier cut of the block goes beyond
        gain = f[first:last, None] - f[low:high]  # (B, R)
        gain *= gain
        gain /= w[first:last, None] - w[low:high]
        costs = reduced[:, None, low:high] - gain  # (L, B, R)
        best = costs.argmin(2)  # (L, B)
        best += low
        least = costs.min(2)
        least += charge
        if (least[:, -1] - least[:, 0] > charges + (second[first] - second[last - 1])).any():
            _inside(least, best, w[first:last], f[first:last], charge, first)
        reduced[:, first:last] = least
        before[:, first:last] = best
        low, first = int(best[:, -1].min()), last
    return before


def _inside(least: np.ndarray, best: np.ndarray, w: np.ndarray, f: np.ndarray, charge: np.ndarray, first: int) -> None:
    """Adds the partitions whose last interval lies within a block, in place.

    None is cheaper while F, which ascends, grows by less than lambda over the block: the caller looks first.
    """
    weight = w[:, None] - w
    np.fill_diagonal(weight, 1.0)
    gain = np.square(f[:, None] - f) / weight
    gain[np.triu_indices(w.size)] = -np.inf
    while True:
        costs = least[:, None, :] - gain  # (L, B, B)
        cost = costs.min(2) + charge
        better = cost < least
        if not better.any():
            return
        best[better] = costs.argmin(2)[better] + first
        least[better] = cost[better]


def _paths(before: np.ndarray) -> list[np.ndarray]:
    """The cuts of each cheapest partition, ascending."""
    paths = []
    for row in before:
        cuts = [row.size - 1]
        while cuts[-1]:
            cuts.append(int(row[cuts[-1]]))
        paths.append(np.array(cuts[::-1]))
    return paths


def splice(sums: Sums, coarse: np.ndarray, fine: np.ndarray, intervals: int) -> np.ndarray | None:
    """The best join of two partitions, equally cheap at one lambda, into one of a number of intervals between theirs.

    Where an interval of the coarse one contains one of the fine one, following the fine one to its start and the
    coarse one from its end costs no more (Monge).
    """
    shift = intervals - (coarse.size - 1)
    joined = []
    for at in range(coarse.size - 1):
        other = at + shift
        if other + 1 < fine.size and coarse[at] <= fine[other] and fine[other + 1] <= coarse[at + 1]:
            joined.append(np.concatenate([fine[: other + 1], coarse[at + 1 :]]))
    return min(joined, key=sums.total) if joined else None
