"""The vector index of an embedded gallery: a cache of what the database holds, rebuilt whenever in doubt."""
