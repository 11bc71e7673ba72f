"""Similar images against their targets, beside other libraries: `python -m benchmarks.retrieval`."""
