"""Routes that run networks on a posted image and do not store it."""
