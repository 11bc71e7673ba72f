"""What the included detectors find and miss on the pictures at hand, and what they cost."""
