"""The families that are declared; a class that is not among them is tried by the names of its inputs."""

from __future__ import annotations

from edgegen.foreign.families import flux, lumina, pixart, qwen_image, sana, sd3, z_image
from edgegen.foreign.families.family import Family

FAMILIES: tuple[Family, ...] = (
    pixart.FAMILY, sana.FAMILY, sd3.FAMILY, lumina.NEXT, lumina.SECOND, flux.FIRST, flux.SECOND, qwen_image.FAMILY,
    z_image.FAMILY,
)  # fmt: skip


def family_of(transformer: str) -> Family | None:
    """The family of a transformer's class."""
    return next((family for family in FAMILIES if family.transformer == transformer), None)


def family_named(name: str) -> Family | None:
    """The family that a manifest names."""
    return next((family for family in FAMILIES if family.name == name), None)
