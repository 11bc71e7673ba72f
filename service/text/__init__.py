"""Parse text from outside: URLs, web origins and environment variables."""
