"""Runtimes: their common base, OpenVINO, opening a model, and the choice of the runtime for each model."""
