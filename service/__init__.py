"""Weigh-in: serves the zoo's models over HTTP and records what each one costs."""
