"""Object detection: from the outputs of a network to boxes in the image."""
