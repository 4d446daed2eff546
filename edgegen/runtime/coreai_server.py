"""The process that Core AI's runtime lives in: opens one .aimodel and runs it until its input ends.

usage: python -m edgegen.runtime.coreai_server PATH BYTES

Frames on stdin and stdout: 8 bytes of length, little end first, then an .npz. The first answer has no arrays: the
model is open. BYTES is the most memory this process may take. What libraries print goes to stderr.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import IO, Any

from edgegen.process import end_with_parent_
from edgegen.runtime.frames import read_arrays, write_arrays


def limit_memory(size: int) -> None:
    """Lets allocations beyond `size` bytes fail, where the system can."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    except (ImportError, ValueError, OSError):
        pass


async def serve(path: str, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Compiles and loads a model, then answers every request with the outputs of its function."""
    from coreai.authoring import AIModelAsset
    from coreai.runtime import NDArray

    async with AIModelAsset.load(path).executable() as model:
        function = model.load_function("main")
        write_arrays(answers, {})
        while (feed := read_arrays(requests)) is not None:
            made: Any = await function({name: NDArray(value) for name, value in feed.items()})
            write_arrays(answers, {name: value.numpy() for name, value in made.items()})


def main() -> None:
    """Keeps stdout for answers; ends with its parent."""
    end_with_parent_()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    limit_memory(int(sys.argv[2]))
    asyncio.run(serve(sys.argv[1], sys.stdin.buffer, answers))


if __name__ == "__main__":
    main()
