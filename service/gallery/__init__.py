"""Gallery: store images in the database, embed them with a network, search for similar ones."""
