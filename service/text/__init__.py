"""Parse text from outside: URLs, origins and environment variables."""
