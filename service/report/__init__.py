"""Report: a benchmark, with an evaluation if there is one, as one file that explains itself."""
