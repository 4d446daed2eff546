"""The same numbers in deployable form. Start with `component.py`, then `layout.py`, `split.py` and `batched.py`."""
