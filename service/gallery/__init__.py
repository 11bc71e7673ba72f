"""Images that can be found by their likes: kept in the database, embedded by a network, searched."""
