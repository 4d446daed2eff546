"""The network as trained, in plain PyTorch. Start with `dit.py`, then `blocks.py` and `attention.py`."""
