"""Validation of `weighin bench` by experiments with known answers."""
