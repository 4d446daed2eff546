"""A stage from its recipe to its last number."""
