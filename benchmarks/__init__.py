"""Benchmarks of the whole project. Run them as modules in the repository's root, with `.venv-bench`."""

MODEL = "efficientnet-lite0-int8"
"""Model that the benchmarks over HTTP use."""
