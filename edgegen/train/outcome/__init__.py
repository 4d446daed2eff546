"""What came out: a checkpoint with its card, and sheets of what it draws."""
