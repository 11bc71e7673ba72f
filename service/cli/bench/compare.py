"""`weighin bench compare A.json B.json`: find regressions between two bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from models.zoo.display import shown
from service.bench.bundle_file import read_bundle
from service.bench.judge.regression import DEFAULT_THRESHOLD, Regression, compare_bundles
from service.cli.output import (
    STANDARD_OUTPUT,
    JsonFile,
    LiteralConsole,
    check_target,
    print_whole,
    say,
    styled,
    write_json,
)
from service.errors import WeighinError

REGRESSED, REFUSED = 1, 2


def compare_files(
    then: Annotated[Path, typer.Argument(help="Older bundle", metavar="A.json")],
    now: Annotated[Path, typer.Argument(help="Newer bundle", metavar="B.json")],
    threshold: Annotated[
        float, typer.Option(help="A larger slowdown than this counts as a regression; 0.05 is 5 %")
    ] = DEFAULT_THRESHOLD,
    across_machines: Annotated[
        bool, typer.Option("--across-machines", help="Show bundles of different machines side by side")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Compare two benchmarks of one machine. Exit code 1: a model regressed. Exit code 2: not comparable."""
    try:
        if json_file is not None:
            check_target(json_file, "--json", (then, now))
        regression = compare_bundles(
            read_bundle(then), read_bundle(now), threshold=threshold, across_machines=across_machines
        )
        if json_file is not None:
            from service.cli.schemas import BundleComparison  # imported here, because it takes half a second

            write_json(json_file, BundleComparison.of(regression, then, now, threshold))
    except WeighinError as error:
        say(f"weighin: {error.detail}", error=True)
        raise typer.Exit(REFUSED) from None
    console = LiteralConsole(quiet=json_file == STANDARD_OUTPUT)
    for label in regression.labels:
        console.print(styled((label, "bold red")), soft_wrap=True, highlight=False)
    print_whole(console, _table(regression))
    for names, file in ((regression.only_then, then), (regression.only_now, now)):
        if names:
            console.print(f"only in {shown(file.name)}: {shown(', '.join(names))}", soft_wrap=True)
    if regression.regressed and not across_machines:
        raise typer.Exit(REGRESSED)


def _table(regression: Regression) -> Table:
    table = Table("model", box=None, pad_edge=False)
    for heading in ("then p50 ms", "now p50 ms", "change", "95 %", "verdict", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for change in regression.changes:
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
