"""Report: one self-contained file on a benchmark and, if there is one, on an evaluation."""
