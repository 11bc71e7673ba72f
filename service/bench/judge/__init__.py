"""What may be concluded from samples: verdicts, stability, regressions."""
