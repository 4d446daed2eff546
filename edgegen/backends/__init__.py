"""Back ends: one record and one file each, and the registry that everything above goes through."""
