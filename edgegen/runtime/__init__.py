"""Runs artifacts: `artifact.py` opens one, `networks.py` puts three behind one interface, `pipeline.py` draws."""
