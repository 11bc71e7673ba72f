"""The table of a bundle: what it withholds."""

from __future__ import annotations

import io
import re

from service.bench.bundle import Bundle
from service.cli.bench.table import print_bundle
from service.cli.output import LiteralConsole
from tests.service.bench.bundles import bundle


def printed(made: Bundle) -> str:
    out = io.StringIO()
    print_bundle(LiteralConsole(file=out, width=300), made)
    return out.getvalue()


def test_no_verdict_and_no_interval_of_few_rounds() -> None:
    few = printed(bundle({"a": [[[2000]] * 3] * 2, "b": [[[1000]] * 3] * 2}))
    assert re.search(r"2\.00x +indistinguishable", few)
    assert "rounds: 6, too few for a verdict and an interval (needed: 7)" in few
    enough = printed(bundle({"a": [[[2000]] * 4] * 2, "b": [[[1000]] * 4] * 2}))
    assert re.search(r"2\.00x \[2\.00, 2\.00\] +faster", enough)
    assert "too few for a verdict" not in enough
