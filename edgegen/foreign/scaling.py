"""Networks whose numbers leave fp16: scaled by powers of two where that mends them, refused by name where not."""

from __future__ import annotations

import torch

from edgegen.capture.deploy import Deployed, deploy
from edgegen.capture.exponents import LARGEST, mend_, ranges_of
from edgegen.errors import EdgegenError
from edgegen.foreign.recording import Recorded
from edgegen.foreign.streamed import streaming
from edgegen.rewrite.component import Component, Form
from edgegen.rewrite.layout import PRESCALE

SUSPECT = LARGEST**0.5 / PRESCALE  # that a layer takes or gives: from here on squares within a norm may leave fp16


def mended_(recorded: Recorded, component: Component) -> dict[str, int]:
    """Scales a deployed network in place by what its cases make of it; the exponents of 2 by layer, none where it needs
    none. EdgegenError names the layer that no scaling mends.
    """
    module = component.module
    assert isinstance(module, Deployed)
    if recorded.largest <= SUSPECT:
        return {}
    feeds = [[torch.from_numpy(case.feed[spec.name]) for spec in component.inputs] for case in recorded.cases]
    with streaming(module, recorded.source.stored):
        largest = ranges_of(module, feeds)
    if max(largest.values(), default=0.0) <= LARGEST:
        return {}
    try:
        return mend_(module, largest)
    except EdgegenError as error:
        raise EdgegenError(f"the {recorded.source.name} leaves fp16: {error.message}", error.remedy) from None


def scaling_of(recorded: Recorded) -> dict[str, int]:
    """The exponents by which a network would be scaled for Core ML, by layer; EdgegenError where none will do."""
    return mended_(recorded, deploy(recorded.traced, Form("split"), recorded.source.name))
