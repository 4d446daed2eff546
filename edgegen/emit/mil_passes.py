"""coremltools' passes without what it does between them: a check of the whole program and two prints of it a pipeline,
and a walk from every value to the compressed weights behind it, of which a program in the making has none.

The program is checked after the last pass, and once more before it is written, so that nothing goes out unchecked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def apply_pipeline(program: Any, pipeline: Any) -> None:
    """Every pass of a pipeline in order, in place, and one check after the last."""
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

    pipeline.validate()
    for name in pipeline.passes:
        run = PASS_REGISTRY[name]
        run.set_options(pipeline.get_options(name))
        run(program)
    program.validate(check_essential_scope=True)


@contextmanager
def unchecked_passes() -> Iterator[None]:
    """Within it coremltools applies pipelines as `apply_pipeline` does; for programs without compressed weights."""
    from coremltools.converters.mil.mil.block import Block
    from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipelineManager

    kept = PassPipelineManager.apply_pipeline, Block._propagate_nonreplaceable_vars
    PassPipelineManager.apply_pipeline = staticmethod(apply_pipeline)
    Block._propagate_nonreplaceable_vars = lambda block: None
    try:
        yield
    finally:
        PassPipelineManager.apply_pipeline = staticmethod(kept[0])
        Block._propagate_nonreplaceable_vars = kept[1]
