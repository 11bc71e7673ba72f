"""The same network behind other servers, for comparison."""
