"""Runtimes that run the networks: what they share, OpenVINO, opening a model in either, the choice."""
