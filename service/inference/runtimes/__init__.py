"""Runtimes that run the networks: what they share, OpenVINO, and how to open a model in either."""
