"""What a stage of training is: its settings, how it is prepared, and where it may run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:  # records are read by every command line: torch waits until it is needed
    from edgegen.train.run.recipe import Recipe

Work: TypeAlias = Callable[..., Any]  # trains or resumes; takes `device` where the stage uses devices
Prepare: TypeAlias = "Callable[[Recipe, Path, Path, Path], Work]"  # recipe, data_dir, runs_dir, run_dir


@dataclass(frozen=True)
class Stage:
    """One stage; its functions import what they need when they are called, so that a record costs nothing.

    settings: the classes of the network's configuration and of the training's. prepare: opens and checks what the
    stage reads, without writing to its folder, and returns the work.
    """

    name: str
    help: str
    example: str
    settings: Callable[[], tuple[type, type]]
    prepare: Prepare
    bundled: bool = True  # one of those that make the bundled model
    takes_data: bool = False  # its recipe may have a [data] table
    shares_work: bool = False  # several processes can train it together
    uses_devices: bool = False  # it can train on others than the CPU
