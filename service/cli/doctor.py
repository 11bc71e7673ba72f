"""`weighin doctor [MODEL]`: find out why a model is slow."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from models.onnx_tools.inspect import UnreadableModel
from models.zoo.display import shown
from service.bench.doctor.diagnose import Report, diagnose
from service.bench.doctor.model import ModelUnderTest
from service.bench.doctor.operators import measure_ceiling
from service.bench.doctor.running import RunSettings
from service.bench.fingerprint import take_fingerprint
from service.cli.output import STANDARD_OUTPUT, JsonFile, LiteralConsole, check_target, styled, write_json
from service.cli.settings import settings_with
from service.errors import ModelUnavailable, UnknownModel
from service.inference.registry import Registry
from service.inference.runtimes.base import SessionError
from service.inference.runtimes.choice import runtime_choices


def doctor(
    model: Annotated[str | None, typer.Argument(help="A model's name [default: all]")] = None,
    threads: Annotated[
        int, typer.Option(min=1, max=256, help="Threads per image in the deployment to diagnose")
    ] = 1,
    spinning: Annotated[
        bool,
        typer.Option("--spinning", help="Idle threads spin in the deployment (ONNX Runtime's default)"),
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Find out why a model is slow on this machine: problems with evidence and remedy, costliest operators.

    Takes about ten seconds per model, on one core. To measure latency, use `weighin bench`.
    """
    if json_file is not None:
        check_target(json_file, "--json")
    console = LiteralConsole(soft_wrap=True, quiet=json_file == STANDARD_OUTPUT)
    settings = settings_with()
    registry = Registry(settings.model_dirs, settings.default_model, added=settings.added_models)
    choices = runtime_choices(settings)
    names = registry.names() if model is None else (registry.entry(model).name,)
    machine = take_fingerprint({}, {}).machine
    run_settings = RunSettings(threads, spinning, settings.threads)
    ceiling = measure_ceiling()
    reports: list[Report] = []
    failed: dict[str, str] = {}
    for name in names:
        try:
            under_test = ModelUnderTest(*registry.content(name))
            parent = _parent(registry, under_test)
            card = under_test.card
            served = replace(
                run_settings,
                runtime=choices.serving(card).runtime,
                auto=choices.of(card).runtime == "auto",
            )
            report = diagnose(under_test, parent, machine, served, ceiling)
        except (ModelUnavailable, SessionError, UnreadableModel) as error:
            failed[name] = str(error)
            console.print(styled((name, "bold"), f": cannot be diagnosed: {error}"), end="\n\n")
            continue
        reports.append(report)
        _show(console, report)
    if json_file is not None:
        from service.cli.schemas import Diagnoses  # imported here, because it takes half a second

        write_json(json_file, Diagnoses.of(reports, failed, machine, run_settings, ceiling))
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
    count = len(report.findings)
    summary = "no problems" if count == 0 else f"{count} problem{'s' * (count > 1)}"
    console.print(styled((report.model, "bold"), f": {summary}"))
    for finding in report.findings:
        console.print(styled("  ", (finding.title, "bold"), f" ({finding.slug})"))
        console.print(f"    evidence: {shown(finding.evidence)}")
        console.print(f"    remedy: {shown(finding.remedy)}")
    ceiling = ", ".join(f"{kind} {rate:.0f}" for kind, rate in report.ceiling_gmacs_per_s.items())
    console.print(
        f"  The {len(report.operators)} slowest of {report.operators_in_all} operators, "
        f"{report.total_us / 1e3:.2f} ms in total on one thread; ceiling (GMAC/s of a large 1x1 "
        f"convolution): {ceiling}"
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("operator")
    table.add_column("kind")
    for heading in ("ms", "share", "M MACs", "GMAC/s", "of ceiling"):
        table.add_column(heading, justify="right")
    for operator in report.operators:
        rate, share = operator.gmacs_per_s, report.of_ceiling(operator)
        table.add_row(
            shown(operator.name),
            f"{operator.op} {operator.arithmetic}",
            f"{operator.typical_us / 1e3:.3f}",
            f"{operator.share:.1%}",
            f"{operator.macs / 1e6:.2f}" if operator.macs else "",
            "" if rate is None else f"{rate:.1f}",
            "" if share is None else f"{share:.0%}",
        )
    console.print(table)
    console.print()
