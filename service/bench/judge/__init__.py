"""Statistics of benchmarks: verdicts, stability, regressions, summaries."""
