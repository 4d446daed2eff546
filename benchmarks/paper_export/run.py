"""The paper's size through the whole path: edgegen export of the 437M transformer at 1024x1024 to Core ML.

usage: python benchmarks/paper_export/run.py [--tier high-phone] [--backend coreml] [--out DIR]

Runs the command as a user would, with random weights, and appends its stages, seconds and peak memory to
measurements.jsonl.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from edgegen.bench.records import append_study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", default="high-phone")
    parser.add_argument("--backend", default="coreml")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "export",
            "--preset",
            "paper",
            "--tier",
            arguments.tier,
            "--backend",
            arguments.backend,
            "--components",
            "transformer",
        ]
        out = arguments.out or Path(folder) / "bundle"
        done = subprocess.run(
            [sys.executable, "-m", "edgegen", *command, "--json", "--out", str(out)], stdout=subprocess.PIPE, text=True
        )
    document = json.loads(done.stdout)
    results = {
        key: document[key] for key in ("seconds", "peak_bytes", "stages", "components", "verify") if key in document
    }
    row = append_study(
        Path(__file__).with_name("measurements.jsonl"),
        {"command": " ".join(["edgegen", *command])},
        results | {"exit_code": done.returncode} | {k: document[k] for k in ("error",) if k in document},
    )
    print(json.dumps(row["results"], indent=2))


if __name__ == "__main__":
    main()
