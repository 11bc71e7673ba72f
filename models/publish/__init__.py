"""Build networks of the zoo from trained or pretrained weights."""
