"""Start nginx and haproxy in front of a service, on the loopback interface."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.until import until

Address = tuple[str, int]

_NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 100m;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream service {{ server {upstream}; keepalive 4; }}
    server {{
        listen 127.0.0.1:{port}{tls};
        proxy_http_version 1.1;
        proxy_request_buffering off;
        proxy_set_header Host $http_host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
{server}
    }}
}}
"""

_HAPROXY = """
global
    maxconn 100
    stats socket {folder}/admin.sock mode 600 level admin
defaults
    mode http
    retries 0
    timeout check 5s
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    option http-keep-alive
frontend in
    bind 127.0.0.1:{port}
    default_backend service
backend service
    http-reuse always
    balance leastconn
    option httpchk GET /readyz
{servers}
"""


@contextlib.contextmanager
def nginx(
    folder: Path, upstream: Address, server: str, *, tls: tuple[Path, Path] | None = None
) -> Iterator[Address]:
    """Start nginx, which forwards Upgrade and Connection. `server`: `location`s; `tls`: certificate, key."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    if tls is not None:
        server += f"\nssl_certificate {tls[0]};\nssl_certificate_key {tls[1]};\n"
    text = _NGINX.format(
        folder=folder, port=port, server=server, upstream="{}:{}".format(*upstream), tls=" ssl" if tls else ""
    )
    (folder / "nginx.conf").write_text(text)
    command = ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with _running(command, port):
        yield ("127.0.0.1", port)


@contextlib.contextmanager
def haproxy(folder: Path, *upstreams: Address, options: str = "") -> Iterator[Address]:
    """Start haproxy, which reuses connections to the services for several clients and repeats no request.

    `options` of each server; the servers are called s0, s1, and so on. With `check`, those whose /readyz does
    not return 200 get no requests.
    """
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    servers = [
        f"    server s{number} {host}:{its_port} {options}"
        for number, (host, its_port) in enumerate(upstreams)
    ]
    text = _HAPROXY.format(folder=folder, port=port, servers="\n".join(servers))
    (folder / "haproxy.cfg").write_text(text)
    with _running(["haproxy", "-q", "-db", "-f", str(folder / "haproxy.cfg")], port):
        until((folder / "admin.sock").exists, "haproxy's control socket is there")  # later than the port
        yield ("127.0.0.1", port)


def haproxy_command(folder: Path, command: str) -> str:
    """Send a command to the running haproxy of `folder`, and return its output."""
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect(str(folder / "admin.sock"))
        admin.sendall(command.encode() + b"\n")
        return admin.makefile().read()


def needs(*commands: str) -> None:
    """Fail, instead of skipping, if a program is missing, so that missing tests are noticed."""
    for command in commands:
        assert shutil.which(command), f"this test needs `{command}`: apt install {command}"


@contextlib.contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    needs(command[0])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(lambda: process.poll() is not None or _accepts(port), f"{command[0]} listens")
        assert process.poll() is None, process.communicate()[0]
        yield
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
