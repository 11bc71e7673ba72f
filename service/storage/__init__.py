"""What the service keeps on disk: the data directory, the database and its migrations."""
