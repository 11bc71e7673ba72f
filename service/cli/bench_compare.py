"""`weighin bench compare A.json B.json`: has anything become slower?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from service.bench.bundle_file import read_bundle
from service.bench.judge.regression import DEFAULT_THRESHOLD, Regression, compare_bundles
from service.cli.bench_table import print_whole
from service.cli.output import LiteralConsole, say, styled
from service.errors import WeighinError
from service.text.display import shown

REGRESSED, REFUSED = 1, 2


def compare_files(
    then: Annotated[Path, typer.Argument(help="The bundle from before", metavar="A.json")],
    now: Annotated[Path, typer.Argument(help="The bundle from after", metavar="B.json")],
    threshold: Annotated[
        float, typer.Option(help="A slowdown beyond this counts, 0.05 is 5 %")
    ] = DEFAULT_THRESHOLD,
    across_machines: Annotated[
        bool, typer.Option("--across-machines", help="Show bundles of different machines side by side")
    ] = False,
) -> None:
    """Compare two measurements of one machine. Exit code 1: something became slower; 2: no comparison."""
    try:
        found = compare_bundles(
            read_bundle(then), read_bundle(now), threshold=threshold, across_machines=across_machines
        )
    except WeighinError as error:
        say(f"weighin: {error.detail}", error=True)
        raise typer.Exit(REFUSED) from None
    console = LiteralConsole()
    for label in found.labels:
        console.print(styled((label, "bold red")), soft_wrap=True, highlight=False)
    print_whole(console, _table(found))
    for names, where in ((found.only_then, then), (found.only_now, now)):
        if names:
            console.print(f"only in {shown(where.name)}: {shown(', '.join(names))}", soft_wrap=True)
    if found.regressed and not across_machines:
        raise typer.Exit(REGRESSED)


def _table(found: Regression) -> Table:
    table = Table("model", box=None, pad_edge=False)
    for heading in ("then p50 ms", "now p50 ms", "change", "95 %", "verdict", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for change in found.changes:
        regressed = ("REGRESSED" if change.regressed else "", "bold red")
        remarks = styled(
            regressed,
            ", " if change.regressed and change.other_file else "",
            "another file" * change.other_file,
        )
        table.add_row(
            shown(change.entry),
            f"{change.then_ns / 1e6:.3f}",
            f"{change.now_ns / 1e6:.3f}",
            f"{change.ratio - 1:+.1%}",
            f"{change.low - 1:+.1%} to {change.high - 1:+.1%}",
            change.verdict,
            remarks,
        )
    return table
