"""The HTTP/1.1 connection: strict framing over llhttp, bounds, lingering close."""
