"""State on disk: the data directory, the database, its migrations and what is kept in it."""
