"""`weighin doctor [MODEL]`: why is it slow?"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from models.onnx_tools.inspect import UnreadableModel
from service.bench.doctor.diagnose import Report, diagnose
from service.bench.doctor.model import ModelUnderTest
from service.bench.doctor.operators import measure_ceiling
from service.bench.doctor.running import RunSettings
from service.bench.fingerprint import take_fingerprint
from service.cli.output import LiteralConsole, styled
from service.cli.settings import settings_with
from service.errors import ModelUnavailable, UnknownModel
from service.inference.registry import Registry
from service.inference.session import SessionError
from service.text.display import shown


def doctor(
    model: Annotated[str | None, typer.Argument(help="A model's name [default: all]")] = None,
    threads: Annotated[
        int, typer.Option(min=1, max=256, help="Threads per image where it is slow; 1 here")
    ] = 1,
    spinning: Annotated[
        bool, typer.Option("--spinning", help="Threads spin there, as is ONNX Runtime's default")
    ] = False,
) -> None:
    """Find out why a model is slow on this machine: faults with evidence and remedy, costly operators.

    Takes about ten seconds per model, on one core. It is no benchmark: for figures, `weighin bench`.
    """
    console = LiteralConsole(soft_wrap=True)
    settings = settings_with()
    registry = Registry(settings.model_dirs, settings.default_model, added=settings.added_models)
    names = registry.names() if model is None else (registry.entry(model).name,)
    machine = take_fingerprint({}, {}).machine
    run_settings = RunSettings(threads, spinning, settings.threads)
    ceiling = measure_ceiling()
    failed = False
    for name in names:
        try:
            under_test = ModelUnderTest(*registry.content(name))
            parent = _parent(registry, under_test)
            report = diagnose(under_test, parent, machine, run_settings, ceiling)
        except (ModelUnavailable, SessionError, UnreadableModel) as error:
            failed = True
            console.print(styled((name, "bold"), f": cannot be examined: {error}"), end="\n\n")
            continue
        _show(console, report)
    if failed:
        raise typer.Exit(1)


def _parent(registry: Registry, model: ModelUnderTest) -> ModelUnderTest | None:
    parent = model.card.derived_from
    if model.card.precision != "int8" or parent is None:
        return None
    try:
        return ModelUnderTest(*registry.content(parent))
    except (UnknownModel, ModelUnavailable):
        return None


def _show(console: Console, report: Report) -> None:
    found = f"{len(report.findings)} found" if report.findings else "nothing found that slows it down"
    console.print(styled((report.model, "bold"), f": {found}"))
    for finding in report.findings:
        console.print(styled("  ", (finding.title, "bold"), f" ({finding.slug})"))
        console.print(f"    evidence: {shown(finding.evidence)}")
        console.print(f"    remedy: {shown(finding.remedy)}")
    ceiling = ", ".join(f"{kind} {reached:.0f}" for kind, reached in report.ceiling_gmacs_per_s.items())
    console.print(
        f"  The {len(report.operators)} most expensive of {report.operators_in_all} operators, "
        f"{report.total_us / 1e3:.2f} ms in all on one thread; GMAC/s of a large 1x1 convolution here: "
        f"{ceiling}"
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("operator")
    table.add_column("kind")
    for heading in ("ms", "share", "M MACs", "GMAC/s", "of ceiling"):
        table.add_column(heading, justify="right")
    for operator in report.operators:
        reached, share = operator.gmacs_per_s, report.of_ceiling(operator)
        table.add_row(
            shown(operator.name),
            f"{operator.op} {operator.arithmetic}",
            f"{operator.typical_us / 1e3:.3f}",
            f"{operator.share:.1%}",
            f"{operator.macs / 1e6:.2f}" if operator.macs else "",
            "" if reached is None else f"{reached:.1f}",
            "" if share is None else f"{share:.0%}",
        )
    console.print(table)
    console.print()
