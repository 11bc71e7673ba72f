"""Routes that run networks on a posted image and keep nothing."""
