"""Address families of this machine: a container may have only IPv4."""

from __future__ import annotations

import socket


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


IPV6 = _has_ipv6()
