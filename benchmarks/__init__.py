"""Benchmarks of the whole project; run as modules from the repository's root, with `.venv-bench`."""
