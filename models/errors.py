"""The error that `python -m models` prints as one line, because its user can correct the cause."""

from __future__ import annotations


class ModelsError(Exception):
    """Missing or unsuitable input; the message names it and says what to do."""
