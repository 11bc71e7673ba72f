"""Read requests: images, forms and query parameters."""
