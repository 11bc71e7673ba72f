"""A local HTTP server that acts as a model hub with one file."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def local_hub(path: str, content: bytes) -> Iterator[tuple[str, list[str]]]:
    """Serve `content` at `path`; yields the server's address and the list of requests so far."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> bool:
            requests.append(f"{self.command} {self.path}")
            exists = self.path == path
            self.send_response(200 if exists else 404)
            self.send_header("Content-Length", str(len(content) if exists else 0))
            if exists:
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", "0" * 40)
            else:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            return exists

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            if self._answer():
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
