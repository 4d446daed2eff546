"""edgegen: puts a trained diffusion transformer on a phone."""

__version__ = "0.1.0"
