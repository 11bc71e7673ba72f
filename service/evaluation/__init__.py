"""Evaluation: the accuracy of models on labelled pictures of the user."""
