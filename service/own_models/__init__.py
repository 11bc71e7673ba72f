"""Own models: add them, and notice them while the service runs."""
