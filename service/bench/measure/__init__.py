"""Run a benchmark: plan, worker process, interleaved rounds."""
