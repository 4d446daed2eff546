"""How each stage trains: networks, losses, steps, and what its run folder holds."""
