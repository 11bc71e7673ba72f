"""State on disk: the data directory, the database and its migrations."""
