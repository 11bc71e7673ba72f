"""Image files to upright 8-bit RGB pixels."""
