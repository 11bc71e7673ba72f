"""Compares a new network with the one before it, and passes it or fails it by limits (`weighin gate`)."""
