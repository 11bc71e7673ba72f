"""Benchmarks: measure models on this machine, store the results as bundles, judge and recommend."""
