"""Benchmarks of the whole project; run as modules from the repository's root, with `.venv-bench`."""

MODEL = "efficientnet-lite0-int8"
"""The model of benchmarks over HTTP."""
