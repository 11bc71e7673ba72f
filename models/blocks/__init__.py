"""Building blocks of networks, one file per block."""
