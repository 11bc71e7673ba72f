"""HTTP API: one router per group of routes, with its schemas, and the mapping of errors to responses."""
