"""The vector index of a gallery in SQLite: a cache of the database, rebuilt if it may be wrong."""
