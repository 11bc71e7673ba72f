"""Exits 0 when the service in this container answers /readyz with 200, else 1.

Over a plain socket: importing an HTTP client would cost, every few seconds, more processor time than an
inference, on the very cores that are being measured.
"""

from __future__ import annotations

import socket
import sys

with socket.create_connection(("127.0.0.1", 8000), timeout=2) as connection:
    connection.sendall(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
    status_line = connection.makefile("rb").readline(100)
sys.exit(status_line.split()[1:2] != [b"200"])
