"""Settings of the service, and the parsing of their values: environment variables, web origins, URLs."""
