"""Fewer bits a weight: palettes found by clustering, bits given to the layers that need them."""
