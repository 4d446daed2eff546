"""The error of a segment that cannot be stamped."""

from __future__ import annotations

from edgegen.errors import EdgegenError


class TemplateError(EdgegenError):
    """A segment whose converted form does not show where each weight goes; such a network is converted whole."""
