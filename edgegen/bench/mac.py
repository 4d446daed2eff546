"""Core ML on this Mac as the app runs it: measured by `edgegen-swift bench`, the command of swift_app/.

`--device host` measures Core ML on a Mac too, through coremltools in Python; this is the app's own code. macOS only;
our tests replace the command.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from edgegen.apps.foreign import refuse_foreign
from edgegen.bench import records
from edgegen.bench.imported import row_of
from edgegen.bench.parts import PICTURE
from edgegen.bench.session import BenchRequest, open_bundles, require_measured
from edgegen.bundle import Bundle
from edgegen.errors import EdgegenError, InputError
from edgegen.verify import is_whole

MAC = "mac"
COMMAND = "EDGEGEN_SWIFT"  # environment variable with the words that run edgegen-swift, if it is not in the path
BUILD = "swift build -c release --package-path swift_app"


def measure_mac(request: BenchRequest, report: Callable[[str], None] = lambda line: None) -> list[dict]:
    """Rows of each bundle's Core ML components and picture, recorded as edgegen-swift gives them."""
    words, bundles = command(), open_bundles(request.bundles)
    for bundle in bundles:
        refuse_foreign(bundle, "edgegen-swift")
    rows = []
    for bundle in bundles:
        report(f"measuring {bundle.root} with {words[0]}")
        for row in run(words, bundle, request):
            rows.append(records.append(request.record, row))
    require_measured(rows)
    return rows


def command() -> list[str]:
    """The words that run edgegen-swift; none, or no Mac, is an error that says what to do."""
    asked = shlex.split(os.environ.get(COMMAND, ""))
    if asked:
        return asked
    if sys.platform != "darwin":
        raise InputError(f"--device mac measures on a Mac; this is {sys.platform}.", "Use --device host here.")
    found = shutil.which("edgegen-swift")
    if found is None:
        raise InputError("edgegen-swift is not in the path.", f"Build it ({BUILD}), or use --device host.")
    return [found]


def run(words: list[str], bundle: Bundle, request: BenchRequest) -> list[dict]:
    """The rows of one bundle, component after component."""
    settings = request.settings
    line = [*words, "bench", "--bundle", str(bundle.folder.absolute()), "--backend", backend(bundle, request)]
    line += ["--runs", str(settings.runs), "--seconds", f"{settings.seconds:g}", "--threads", str(settings.threads)]
    with tempfile.TemporaryDirectory() as folder:
        record = ["--record", str(Path(folder) / "rows.jsonl"), "--json"]
        return [row for part in parts(bundle, request) for row in ask([*line, "--component", part, *record])]


def parts(bundle: Bundle, request: BenchRequest) -> list[str]:
    """What to measure, chunks one by one, each in a process of its own, whose memory is that part's alone."""
    chosen = backend(bundle, request)
    has = [artifact for artifact in bundle.manifest.components if artifact.backend == chosen]
    if not request.components:
        return [*(artifact.name for artifact in has), *([PICTURE] if is_whole(bundle, chosen) else [])]
    chunks = {name: [artifact.name for artifact in has if artifact.network == name] for name in request.components}
    return [part for name in request.components for part in chunks[name] or [name]]


def backend(bundle: Bundle, request: BenchRequest) -> str:
    """The back end to measure: the one asked for, or Core ML."""
    chosen = request.backends[0] if request.backends else "coreml"
    if chosen not in bundle.backends:
        raise InputError(f"{bundle.root} has no {chosen}.", f"It has: {', '.join(bundle.backends)}.")
    return chosen


def ask(line: list[str]) -> list[dict]:
    """The rows that edgegen-swift prints; its failure is one line."""
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    except OSError as error:
        raise InputError(f"{line[0]} cannot be run: {error.strerror}.", f"Build it: {BUILD}") from None
    if done.returncode:
        told = (done.stderr.strip().splitlines() or ["no word"])[-1].removeprefix("error: ")
        kind = InputError if done.returncode == InputError.exit_code else EdgegenError
        raise kind(f"edgegen-swift: {told}")
    return [row_of(row, f"edgegen-swift's line {i}") for i, row in enumerate(done.stdout.splitlines(), 1)]
