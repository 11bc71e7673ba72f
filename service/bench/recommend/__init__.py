"""Recommend a model for a budget, from benchmarks of this machine."""
