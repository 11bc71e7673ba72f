"""The vector index of a gallery in SQLite. It is a cache of the database, and rebuilt if it may be wrong."""
