"""HTTP: one router per endpoint family, schemas, and the mapping of errors to responses."""
