"""What networks are built of: one file per block."""
