"""The experiments that say how far the instrument can be trusted, one per file."""
