"""Exits 0 when the service in this container answers /readyz with 200, else 1.

It asks at WEIGHIN_HOST and WEIGHIN_PORT, read as the service reads them; options of the container's command
(`weighin serve --port 9000`) come first. Over a plain socket: importing an HTTP client would cost, every few
seconds, more processor time than an inference, on the very cores that are being measured.
"""

from __future__ import annotations

import os
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from service.text.environment import clean, read_environment  # needs only the standard library

LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def options_of(command: bytes) -> dict[str, str]:
    """The host and port among a process's arguments, which are separated by zero bytes.

    The command that a shell is given (`sh -c "exec weighin serve --port 9000"`) is one argument.
    """
    arguments = [clean(os.fsdecode(argument)) for argument in command.split(b"\0")]
    if "serve" not in arguments:
        arguments = [word for argument in arguments for word in _words(argument)]
    if "serve" not in arguments:
        return {}
    found = {}
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name in ("--host", "--port") and (value or not equals):
            found[name[2:]] = value or following
    return found


def _words(command: str) -> list[str]:
    from shlex import shlex  # only needed for a shell

    lexer = shlex(os.path.expandvars(command), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:  # a quote without an end
        return []


def main() -> str | None:
    """Ask the service; return why it is not ready, None when it is."""
    try:
        with open("/proc/1/cmdline", "rb") as file:  # the container's first process
            options = options_of(file.read())
    except OSError:
        options = {}
    values = read_environment(os.environ, ("host", "port"))[0] | options
    host = values.get("host", "127.0.0.1").strip("[]")
    port = values.get("port", "8000")
    problem = "no answer"
    for address in dict.fromkeys((LOOPBACK.get(host, host), "127.0.0.1" if host == "::" else host)):
        try:
            with socket.create_connection((address, int(port)), timeout=2) as connection:
                connection.sendall(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
                status = connection.makefile("rb").readline(100).split()[1:2]
        except (OSError, ValueError, OverflowError) as error:
            problem = str(error)
            continue
        if status == [b"200"]:
            return None
        problem = f"answer {status}"
        break
    return f"{host} port {port}: {problem}"


if __name__ == "__main__":
    sys.exit(main())
