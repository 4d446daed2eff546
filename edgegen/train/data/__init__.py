"""What stages learn from: a user's pictures, or emoji, as frozen encoders see them."""
