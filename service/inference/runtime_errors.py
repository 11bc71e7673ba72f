"""Shorten the messages of a runtime's exceptions to one line, without paths and C++ signatures."""

from __future__ import annotations

import os
import re

LONGEST = 500
"""Maximum characters of a message."""

_LONGEST_READ = 5000  # a message may be of any length, because it may contain names from the model file

_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_FILE_AND_LINE = r"\S+\.(?:cc|cpp|h|hpp|inc|cu):\d+"
_SIGNATURE = re.compile(
    _FILE_AND_LINE + r" (?:[\w:<>,*&~ ]+\((?:[^()]|\([^()]*\))*\)(?: const)?(?: \[with [^\]]*\])? )?"
)
_PLACE = re.compile(r"(?:Exception from )?" + _FILE_AND_LINE + r"[:,]? ?")
_PATH = re.compile(r"(?<![\w./:~-])(?:~|/[\w.+@~-]+|[A-Za-z]:\\[\w.+@~ -]+)(?:[/\\][\w.+@~-]+)*")


def runtime_words(error: BaseException) -> str:
    """Return the message of a runtime's exception in at most 500 characters.

    For a MemoryError, the result is `not enough memory`. If the message is empty, the result is the
    exception's type. Paths are reduced to base names. Node names that look like paths, such as
    `/layer1/Conv`, are kept.
    """
    if isinstance(error, MemoryError):
        return "not enough memory"
    text = " ".join(_PREFIX.sub("", str(error)[:_LONGEST_READ]).split())
    text = _PLACE.sub("", _SIGNATURE.sub("", text + " "))
    return one_line(_PATH.sub(_without_folders, text).strip(" .")) or type(error).__name__


def one_line(text: str) -> str:
    """Return `text` as one line of at most 500 characters, with `?` for characters that are not printable."""
    text = "".join(character if character.isprintable() else "?" for character in text[: LONGEST + 1])
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _without_folders(match: re.Match[str]) -> str:
    path = match.group()
    first = re.split(r"[/\\]", path)[1] if "/" in path or "\\" in path else ""
    if path.startswith("/") and not os.path.lexists(f"/{first}"):
        return path
    return re.split(r"[/\\]", path)[-1]
