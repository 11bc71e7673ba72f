"""The HTTP/1.1 connection: strict framing over llhttp, size and time limits, lingering close."""
