"""Benchmark of the similarity search beside other libraries: `python -m benchmarks.retrieval`."""
