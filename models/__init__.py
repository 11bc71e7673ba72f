"""Lightweight image classifiers: blocks, networks, compression and export to the zoo."""
