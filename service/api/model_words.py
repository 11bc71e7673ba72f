"""What is said of a model that was added, in words for HTTP: fields of the form, not options of a command."""

from __future__ import annotations

import re

from service.own_models.facts import OPTIONS

_CARD = "card"
_PHRASES = {
    ", or --range": "",
    "--labels FILE gives others": "the part labels gives others",
    "name one with --output NAME": "name one as card.outputs.names.logits",
}
_FIELDS = {
    **{option.split(",")[0]: f"{_CARD}.{path}" for path, option in OPTIONS.items()},
    "--size": f"{_CARD}.input.height and width",
    "--output": f"{_CARD}.outputs.names.logits",
    "--label-set": f"{_CARD}.labels",
    "--labels": "labels",
    "--name": "name",
    "--preset": "preset",
}
_OPTION = re.compile(r"--[a-z]+(?:-[a-z]+)*")
_COMMAND = re.compile(r"((?:python -m|optimum-cli) .*)", re.DOTALL)
"""A command of another program, which stays as it is."""


def in_http_words(text: str) -> str:
    """Return a message of `weighin add` with the fields of the form in the place of options."""
    words, *command = _COMMAND.split(text, maxsplit=1)
    for phrase, other in _PHRASES.items():
        words = words.replace(phrase, other)
    return "".join([_OPTION.sub(lambda found: _FIELDS.get(found[0], found[0]), words), *command])
