"""Smaller and faster variants of a model, and how much of it they keep."""
