"""What of a back end works here, and why the rest does not."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from edgegen.quiet import quietly


@dataclass(frozen=True)
class Ability:
    """Whether something works here, and why not."""

    works: bool
    note: str


@dataclass(frozen=True)
class BackendHealth:
    """The three things a back end is for."""

    backend: str
    convert: Ability
    verify: Ability
    run: Ability


def attempt(work: Callable[[], object], note: str) -> Ability:
    """Whether something runs without an error; the error is the note otherwise."""
    try:
        quietly(work)
        return Ability(True, note)
    except Exception as error:  # anything a broken installation raises is a finding
        reason = (str(error).strip().splitlines() or [""])[0]
        return Ability(False, f"{type(error).__name__}: {reason}"[:200])


def importing(*names: str) -> Callable[[], object]:
    return lambda: [importlib.import_module(name) for name in names]
