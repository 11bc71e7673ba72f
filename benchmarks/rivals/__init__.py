"""The same network served by other servers, for comparison."""
