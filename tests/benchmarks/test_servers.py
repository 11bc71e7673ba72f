"""A server of several processes: their CPU time and memory, and that all are paused and ended."""

from __future__ import annotations

import psutil
import pytest

from benchmarks.servers import Server, free_port
from tests.helpers.until import until

# starts a child in a session of its own that uses 0.2 s of CPU time, and then answers 200
PARENT = """
import http.server, subprocess, sys

class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

busy = "import time\\nwhile time.process_time() < 0.2: pass\\nprint(flush=True)\\ninput()"
pipe = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child = subprocess.Popen([sys.executable, "-c", busy], start_new_session=True, **pipe)
child.stdout.readline()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.mark.slow
def test_all_processes_of_a_server() -> None:
    port = free_port()
    server = Server("tree", ["-c", PARENT, str(port)], port, {})
    try:
        server.wait_until("/")
        parent, child = server.tree()
        assert server.tree_cpu_s() >= 0.2 + server.cpu_s() - 0.02  # the kernel counts in ticks of 10 ms
        assert server.tree_pss_mb() > parent.memory_full_info().pss / 1e6
        server.pause()
        until(lambda: {parent.status(), child.status()} == {psutil.STATUS_STOPPED}, "both stopped")
        server.resume()
        until(lambda: psutil.STATUS_STOPPED not in (parent.status(), child.status()), "both continued")
    finally:
        server.stop()
    assert not parent.is_running()
    _, alive = psutil.wait_procs([child], timeout=5)
    assert not alive
