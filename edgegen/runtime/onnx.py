"""Runs an ONNX file with ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

from edgegen.callbacks import ArrayFunction
from edgegen.runtime.onnx_file import read_model, session_options

TELEMETRY = "ORT_DISABLE_TELEMETRY"  # ONNX Runtime from 1.29 on sends telemetry unless this is 1 when it loads


def import_onnxruntime() -> ModuleType:
    """ONNX Runtime with its telemetry off: the only place that imports it."""
    os.environ[TELEMETRY] = "1"
    import onnxruntime

    return onnxruntime


def open_onnx(path: Path) -> ArrayFunction:
    """A function from inputs by name to outputs by name."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpu_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in session_options(read_model(path)).items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(names, dict(feed)), strict=True))


def cpu_threads() -> int:
    """OMP_NUM_THREADS where it is set, otherwise the cores this process may use: not all the machine has."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
