"""The vector index of an embedded gallery: a cache of the database, rebuilt if it may be wrong."""
