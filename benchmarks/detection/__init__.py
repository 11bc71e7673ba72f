"""What the included detectors find and miss in known pictures, and what they cost."""
