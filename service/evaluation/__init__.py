"""Accuracy of models on labelled pictures of the user."""
