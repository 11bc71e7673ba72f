"""Pages for people: the latency dashboard."""
