"""Text from outside: URLs, origins, environment variables, and its display in messages."""
