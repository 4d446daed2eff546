"""In which precision a run multiplies: float32, or bfloat16 where it is faster; measured, not guessed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from edgegen.errors import EdgegenError
from edgegen.runs import parallel
from edgegen.runs.run_state import saved_settings

PRECISIONS = ("auto", "float32", "bfloat16")
GAIN = 0.95  # bfloat16 must take less than this share of the time of float32, for it costs exactness


def autocast(device: str, precision: str) -> torch.autocast:
    """The context in which a network runs in a precision on a device such as 'cuda:1'."""
    return torch.autocast(device.split(":")[0], torch.bfloat16, enabled=precision == "bfloat16")


def settle_precision(asked: str, run_dir: Path, work: Callable[[str], float]) -> tuple[str, dict[str, float]]:
    """The precision of a run and the seconds measured for it, if any; `auto` is what a saved run has, or the faster.

    Every process of a run gets what the first one measured.
    """
    if asked != "auto":
        return asked, {}
    saved = saved_settings(run_dir)
    if saved is not None:
        return saved["training"]["precision"], {}
    return parallel.broadcast(choose_precision(work))


def choose_precision(work: Callable[[str], float], repeats: int = 2) -> tuple[str, dict[str, float]]:
    """The faster of float32 and bfloat16, and the seconds each took; `work(precision)` does a step, returns its loss.

    One step of each is not timed. bfloat16 is only chosen where its loss is finite and it gains more than noise.
    """
    seconds, finite = {}, True
    for precision in ("float32", "bfloat16"):
        try:
            finite = abs(work(precision)) < float("inf")  # NaN compares false
            seconds[precision] = min(time_step(work, precision) for _ in range(repeats))
        except (RuntimeError, NotImplementedError) as error:  # a device without bfloat16
            if precision == "float32":
                raise EdgegenError(f"a training step failed: {str(error).splitlines()[0]}.") from error
            finite = False
    better = finite and seconds["bfloat16"] < GAIN * seconds["float32"]
    return ("bfloat16" if better else "float32"), seconds


def time_step(work: Callable[[str], float], precision: str) -> float:
    start = time.perf_counter()
    work(precision)  # returns a number, so that the device has finished
    return time.perf_counter() - start
