"""Proof that the instrument is right, by experiments with known answers."""
