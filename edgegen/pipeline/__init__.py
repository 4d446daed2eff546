"""Text to picture by a bundle's artifacts, or by the original in PyTorch: networks, tokens, Euler steps."""
