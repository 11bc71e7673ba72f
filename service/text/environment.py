"""Read WEIGHIN_* variables from the environment, as env files, shells and Kubernetes write them.

This module imports only the standard library, because the container's health check uses it to read the port
and must start fast.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

PREFIX = "WEIGHIN_"

_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://(\[[0-9a-f:.]+\]|[^\s/:@]+):\d+", re.IGNORECASE)
_LINKED = PREFIX + "PORT"  # Kubernetes sets this variable for a Service named `weighin`
_SERVICE_LINK_NAME = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_LIKE_PREFIX = re.compile(r"WEIGH_?IN")
_AROUND = re.compile("^[\\s\ufeff\u200b\u2060]+|[\\s\ufeff\u200b\u2060]+$")


def clean(text: str) -> str:
    """Return `text` without whitespace and byte order marks at its ends."""
    return _AROUND.sub("", text)


def is_service_link(text: str) -> bool:
    """Return whether `text` is a Kubernetes service link such as `tcp://10.96.12.34:8000`."""
    return _SERVICE_LINK.fullmatch(text) is not None


def read_environment(
    environment: Mapping[str, str], settings: Collection[str]
) -> tuple[dict[str, str], list[str]]:
    """Return the values of `settings` by name, and warnings about ignored variables.

    `settings` are lower-case names without the prefix. Variable names are case-insensitive; if a variable is
    set in several spellings, the one in upper case is used. Empty and blank values count as unset.

    If a Kubernetes Service is named `weighin`, Kubernetes sets WEIGHIN_PORT to a service link, and sets other
    variables that are not settings. The link in WEIGHIN_PORT is ignored with a warning, and the other
    variables are ignored without a warning.
    """
    known = {PREFIX + name.upper(): name for name in settings}
    values: dict[str, str] = {}
    warnings: list[str] = []
    for variable, name, text in _set_variables(environment):
        if name not in known:
            if not is_service_link(text) and not _SERVICE_LINK_NAME.fullmatch(name):
                warnings.append(f"{variable}: unknown setting, ignored{_suggestion(name, known)}")
        elif name == _LINKED and is_service_link(text):
            warnings.append(
                f"{variable}: '{text}' is a Kubernetes service link, ignored; the default is used "
                f"(to end this warning, set {variable}, or enableServiceLinks: false in the pod)"
            )
        else:
            values[known[name]] = text
    return values, warnings


def _set_variables(environment: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield each non-empty variable named like a setting: its name, its name in upper case, its value."""
    for variable in sorted(environment, reverse=True):  # upper case last, so that it replaces lower case
        name = clean(variable).upper()
        text = clean(environment[variable])
        if text and _LIKE_PREFIX.match(name):
            yield clean(variable), name, text


def _suggestion(name: str, known: Collection[str]) -> str:
    from difflib import get_close_matches  # imported only when needed, so that the module loads fast

    nearest = get_close_matches(name, known, n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""
