"""Transformers of other projects behind this one's interface, one file for each family."""
