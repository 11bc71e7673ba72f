"""What a user of `python -m models` can put right: the command ends with it as one line."""

from __future__ import annotations


class ModelsError(Exception):
    """Something is missing, or is not what it should be; the message says what, and what to do."""
