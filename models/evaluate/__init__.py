"""Accuracy of networks, and paired comparisons of it."""
