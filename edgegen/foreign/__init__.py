"""Networks of others: a module of the user's own, or a folder that diffusers or transformers saved."""
