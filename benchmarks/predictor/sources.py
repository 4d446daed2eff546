"""How many figures of the profiles were read on the page they name: counts, and what was corrected on the way.

`python -m benchmarks.predictor.sources` prints the table of README.md.
"""

from __future__ import annotations

import csv
import tomllib
from collections import Counter
from pathlib import Path

from benchmarks.predictor.points import FOLDER, profile
from edgegen.target import UNCHECKED, Device, Figure, Unit, list_devices, load_device, targets_folder

CORRECTIONS = FOLDER / "corrections.csv"
KINDS = ("read", "derived", "not checked")  # derived: from figures that were read


def main() -> int:
    print(table())
    return 0


def kind(source: str) -> str:
    """What a source says of itself."""
    if source.startswith(UNCHECKED):
        return "not checked"
    return "derived" if source.startswith("derived: ") else "read"


def machines() -> list[Device]:
    """The Macs and reference boards of machines/."""
    return [load_device(str(path)) for path in sorted((FOLDER / "machines").glob("*.toml"))]


def core_sources() -> list[str]:
    """The sources of targets/cores.toml."""
    text = Path(targets_folder() / "cores.toml").read_text(encoding="utf-8")
    return [entry["source"] for entry in tomllib.loads(text)["cores"]]


def counts() -> dict[str, Counter[str]]:
    """Figures of each place by kind."""
    places = {"targets/devices": list_devices(), "machines": machines()}
    found = {
        place: Counter(kind(f.source) for device in devices for f in device.figures.values())
        for place, devices in places.items()
    }
    return found | {"targets/cores.toml": Counter(map(kind, core_sources()))}


def told(figure: Figure | Unit) -> str:
    """A figure as corrections.csv writes it."""
    if isinstance(figure, Figure):
        return f"{figure.value:g}" if isinstance(figure.value, float) else str(figure.value)
    if figure.clusters:
        return " + ".join(f"{c.count}x{c.ghz:g}" for c in figure.clusters)
    return f"{figure.tops:g} {figure.precision}"


def corrections() -> list[dict[str, str]]:
    """What a figure was before its source was opened, and what it is now."""
    with CORRECTIONS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def current(row: dict[str, str]) -> str:
    """The figure of a correction as it is in the profile now."""
    return told(profile(row["profile"]).figures[row["figure"]])


def table() -> str:
    """The table of README.md."""
    corrected = Counter(
        "machines" if (FOLDER / "machines" / f"{row['profile']}.toml").exists() else "targets/devices"
        for row in corrections()
    )
    lines = ["| where | figures | " + " | ".join(KINDS) + " | of these corrected |", "|" + "---|" * (len(KINDS) + 3)]
    for place, found in counts().items():
        cells = (f"`{place}`", found.total(), *(found[name] for name in KINDS), corrected[place])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
