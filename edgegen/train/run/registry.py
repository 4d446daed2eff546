"""The stages, in the order in which they are trained."""

from __future__ import annotations

from edgegen.errors import unknown
from edgegen.train.run import (
    autoencoder_stage,
    decoder_stage,
    elastic_stage,
    kd_stage,
    kdmd_stage,
    text_stage,
)
from edgegen.train.run.stage import Stage

STAGES: dict[str, Stage] = {
    module.STAGE.name: module.STAGE
    for module in (autoencoder_stage, decoder_stage, text_stage, elastic_stage, kd_stage, kdmd_stage)
}
BUNDLED = tuple(stage.name for stage in STAGES.values() if stage.bundled)  # what `edgegen train all` trains


def find_stage(name: str, where: str = "") -> Stage:
    """A stage by name; an unknown one is an error that suggests the closest and says `where` it stands."""
    if name not in STAGES:
        raise unknown(f"stage in {where}" if where else "stage", name, STAGES)
    return STAGES[name]
