"""Writes components as artifacts of a back end, and the bundle that holds them."""
