"""Recommend a model that fits given limits, from benchmarks of one kind of machine."""
