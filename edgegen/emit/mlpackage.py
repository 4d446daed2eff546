"""The same program in the same bytes: what coremltools writes differs from run to run in names it draws by chance."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
MANIFEST = "Manifest.json"
DEBUG_HANDLES = "executorch_debug_handle_mapping.json"  # coremltools leaves it in a package: half of a small program
SPACE = uuid.NAMESPACE_OID  # of identifiers that follow from an item's path


def settle_(package: Path) -> None:
    """Rewrites a saved .mlpackage in place: maps of the model in order, identifiers by path, no debugging file."""
    from coremltools.proto import Model_pb2

    (package / DEBUG_HANDLES).unlink(missing_ok=True)
    model = Model_pb2.Model()
    model.ParseFromString((package / MODEL).read_bytes())
    (package / MODEL).write_bytes(model.SerializeToString(deterministic=True))
    manifest = json.loads((package / MANIFEST).read_text(encoding="utf-8"))
    (package / MANIFEST).write_text(json.dumps(with_fixed_identifiers(manifest), indent=4) + "\n", encoding="utf-8")


def with_fixed_identifiers(manifest: dict) -> dict:
    """The manifest with each item under an identifier that follows from its path, in the order of paths."""
    items, root = manifest["itemInfoEntries"], manifest["rootModelIdentifier"]
    renamed = {old: str(uuid.uuid5(SPACE, item["path"])) for old, item in items.items()}
    ordered = sorted(items, key=lambda old: items[old]["path"])
    return manifest | {
        "itemInfoEntries": {renamed[old]: items[old] for old in ordered},
        "rootModelIdentifier": renamed[root],
    }
