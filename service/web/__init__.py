"""HTML pages: playground, latency dashboard, benchmarks and API documentation."""
