"""Records any eager network as a graph of plain operations: what depends on its inputs, and constants."""
