"""Mutated inputs for every command that reads what others wrote: `python -m tests.fuzz --seconds 600 --seed 1`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # tiny.py
