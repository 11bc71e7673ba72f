"""What people write instead: the same network behind other servers, for comparison."""
