"""Container health check: exits 0 if the service responds to /readyz with 200, else 1.

Uses WEIGHIN_HOST and WEIGHIN_PORT as the service does. Options of the container's command take precedence,
as in `weighin serve --port 9000`. Uses a plain socket, because importing an HTTP client every few seconds
would cost more CPU time than an inference, on the cores that are being measured.
"""

from __future__ import annotations

import os
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from service.text.environment import clean, read_environment  # needs only the standard library

LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def options_of(command: bytes) -> dict[str, str]:
    """Return host and port from a process's NUL-separated arguments.

    Also reads the command of a shell, which is one argument: `sh -c "exec weighin serve --port 9000"`.
    """
    arguments = [clean(os.fsdecode(argument)) for argument in command.split(b"\0")]
    if "serve" not in arguments:
        arguments = [word for argument in arguments for word in _words(argument)]
    if "serve" not in arguments:
        return {}
    options = {}
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name in ("--host", "--port") and (value or not equals):
            options[name[2:]] = value or following
    return options


def _words(command: str) -> list[str]:
    from shlex import shlex  # only needed for shell commands

    lexer = shlex(os.path.expandvars(command), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:  # unbalanced quotes
        return []


def main() -> str | None:
    """Request /readyz; return the reason if the service is not ready, else None."""
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
