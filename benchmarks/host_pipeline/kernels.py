"""How fast XNNPACK's convolutions and products are here, and would be on an x86-64 processor without AVX-512.

usage: python benchmarks/host_pipeline/kernels.py [--without-avx512]

Without it XNNPACK is shown a processor that lacks the instructions: their flags are cleared in ExecuTorch's table of
them, before a program is loaded. Prints GFLOP/s of processor time, the best of 60 runs of one thread.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from pathlib import Path

import executorch
import torch
from torch import nn

LIBRARY = Path(executorch.__path__[0]) / "lib" / "libexecutorch_threadpool.so"
AVX512 = slice(29, 55)  # of struct cpuinfo_x86_isa: from avx512f on, with AVX10 and AMX
CHANNELS, SIDE, RUNS = 128, 16, 60
MACS = 9 * CHANNELS**2 * SIDE**2

PICTURE, COLUMNS = torch.randn(1, CHANNELS, SIDE, SIDE), torch.randn(1, 9 * CHANNELS, SIDE, SIDE)
CASES = {
    "3x3 convolution": (nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), PICTURE, MACS),
    "3x3 convolution, 4 groups": (nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=4), PICTURE, MACS // 4),
    "1x1 convolution": (nn.Conv2d(9 * CHANNELS, CHANNELS, 1), COLUMNS, MACS),
    "linear": (nn.Linear(9 * CHANNELS, CHANNELS), torch.randn(SIDE**2, 9 * CHANNELS), MACS),
}


def hide_avx512_() -> None:
    library = ctypes.CDLL(str(LIBRARY), mode=ctypes.RTLD_GLOBAL)
    library.cpuinfo_initialize()
    flags = (ctypes.c_bool * AVX512.stop).in_dll(library, "cpuinfo_isa")
    for number in range(AVX512.start, AVX512.stop):
        flags[number] = False


def seconds(module: nn.Module, value: torch.Tensor) -> float:
    """Of processor time, the least."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    exported = torch.export.export(module.eval(), (value,))
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    program = Runtime.get().load_program(lowered.to_executorch().buffer)
    method, least = program.load_method("forward"), float("inf")
    for _ in range(RUNS):
        start = time.process_time()
        method.execute([value])
        least = min(least, time.process_time() - start)
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without-avx512", action="store_true")
    if parser.parse_args().without_avx512:
        hide_avx512_()
    from executorch.extension.pybindings import portable_lib

    portable_lib._unsafe_reset_threadpool(1)
    for name, (module, value, macs) in CASES.items():
        print(f"{name}: {2e-9 * macs / seconds(module, value):.0f} GFLOP/s", flush=True)


if __name__ == "__main__":
    main()
