"""Find out why a model is slow: one check per cause, with evidence and remedy."""
