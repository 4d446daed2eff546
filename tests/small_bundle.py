"""The small bundle of tests/vectors/bundle.json on disk: three back ends, artifacts of any bytes."""

import json
from pathlib import Path

from edgegen.bundle import MANIFEST, VERIFY
from edgegen.files import write_json

VECTORS = Path(__file__).parent / "vectors"


def write_small_bundle(folder: Path) -> Path:
    """Writes the bundle, with a verify.json of one row an artifact."""
    whole = json.loads((VECTORS / "bundle.json").read_text("ascii"))
    for path, text in whole["files"].items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, "utf-8")
    manifest = json.loads(whole["manifest"])
    components = [component | {"options": {}} for component in manifest["components"]]
    write_json(folder / MANIFEST, manifest | {"components": components})
    write_json(folder / VERIFY, [{"component": c["name"], "backend": c["backend"]} for c in components])
    return folder
