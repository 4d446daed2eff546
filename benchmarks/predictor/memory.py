"""Compares the peak memory predicted for artifacts with what this machine measures, in a process each.

`python -m benchmarks.predictor.memory BUNDLE...` appends one row a component and back end to measurements.jsonl and
exits with 1 when one is off by more than 20 %. Memory over what the process held before it opened the artifact.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgegen.bench.host import ChildRunner, candidates, runnable
from edgegen.bench.measure import Settings
from edgegen.bench.predict_bundle import host_memory
from edgegen.bench.records import append_study
from edgegen.bundle import load_bundle

LIMIT = 0.20
RUNS = 2
LINE = "{:14s}{:14s}{:12s}{:>12s}{:>12s}{:>8s}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+", type=Path)
    rows = [row for folder in parser.parse_args().bundles for row in compare(folder)]
    append_study(Path(__file__).with_name("measurements.jsonl"), {"runs": RUNS, "limit": LIMIT}, {"memory": rows})
    print(LINE.format("tier", "component", "back end", "measured", "predicted", "error"))
    for row in rows:
        print(
            LINE.format(
                row["tier"],
                row["component"],
                row["backend"],
                f"{row['measured_bytes'] / 1e6:.1f} MB",
                f"{row['predicted_bytes'] / 1e6:.1f} MB",
                f"{row['error']:+.0%}",
            )
        )
    return int(any(abs(row["error"]) > LIMIT for row in rows))


def compare(folder: Path) -> list[dict]:
    """Measured and predicted peaks of everything a bundle can run here."""
    bundle, settings, rows = load_bundle(folder), Settings(threads=1), []
    for candidate in candidates(bundle, tuple(b for b in runnable(bundle) if b != "coreml"), ()):
        runner = ChildRunner(candidate, settings)
        try:
            opened = runner.open()
            measured = runner.run(RUNS)[1] - opened.base_bytes
        finally:
            runner.close()
        predicted = host_memory(bundle, candidate.backend, candidate.component).peak
        rows.append(
            {
                "model": bundle.manifest.model,
                "tier": bundle.manifest.tier,
                "component": candidate.component,
                "backend": candidate.backend,
                "measured_bytes": measured,
                "predicted_bytes": predicted,
                "error": round(predicted / measured - 1, 3),
            }
        )
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
