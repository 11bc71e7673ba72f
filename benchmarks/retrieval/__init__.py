"""Benchmark of the similarity search and of other libraries: `python -m benchmarks.retrieval`."""
