"""WEIGHIN_* variables as env files, shells and Kubernetes write them.

Needs only the standard library and starts fast: the container's health check reads its port with it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

PREFIX = "WEIGHIN_"

_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://(\[[0-9a-f:.]+\]|[^\s/:@]+):\d+", re.IGNORECASE)
_LINKED = PREFIX + "PORT"  # the only setting whose name Kubernetes gives to a link: of a Service `weighin`
_SERVICE_LINK_NAME = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_LIKE_PREFIX = re.compile(r"WEIGH_?IN")
_AROUND = re.compile("^[\\s\ufeff\u200b\u2060]+|[\\s\ufeff\u200b\u2060]+$")


def clean(text: str) -> str:
    """Return `text` without the blanks, line ends and byte order marks around it."""
    return _AROUND.sub("", text)


def is_service_link(text: str) -> bool:
    """Whether Kubernetes puts this into `<SERVICE>_PORT`: `tcp://10.96.12.34:8000`."""
    return _SERVICE_LINK.fullmatch(text) is not None


def read_environment(
    environment: Mapping[str, str], settings: Collection[str]
) -> tuple[dict[str, str], list[str]]:
    """Return the values of `settings`, by name, and a warning for each variable that is set but ignored.

    `settings` are names in lower case without prefix. A variable that is empty or blank counts as unset. The
    name of a variable may be in any case; upper case wins. A Kubernetes service link is ignored where
    Kubernetes can have set it: in WEIGHIN_PORT, and in variables that are no settings.
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
    """Variables of this service that are not empty: as written, in upper case, and what they hold."""
    for variable in sorted(environment, reverse=True):  # upper case after lower case, so that it wins
        name = clean(variable).upper()
        text = clean(environment[variable])
        if text and _LIKE_PREFIX.match(name):
            yield clean(variable), name, text


def _suggestion(name: str, known: Collection[str]) -> str:
    from difflib import get_close_matches  # only needed for a mistake

    nearest = get_close_matches(name, known, n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""
