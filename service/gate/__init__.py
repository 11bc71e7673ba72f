"""Compare a new network with the previous one, and pass it or fail it by limits (`weighin gate`)."""
