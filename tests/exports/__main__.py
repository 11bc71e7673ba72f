"""`python -m tests.exports`: try every export and write the section of docs/own-models.md."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.exports.page import PAGE, section, with_section
from tests.exports.run import tried


def main() -> None:
    """Write the section, and print it."""
    with tempfile.TemporaryDirectory() as folder, tried(Path(folder)) as (results, _):
        text = section(results)
    PAGE.write_text(with_section(PAGE.read_text(), text))
    print(text)  # noqa: T201


if __name__ == "__main__":
    main()
