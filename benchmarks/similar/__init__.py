"""Similar images, measured: the parts of benchmarks/retrieval.py."""
