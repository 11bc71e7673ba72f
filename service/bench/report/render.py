"""Write a report as HTML, Markdown or CSV."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from models.zoo.display import counted, in_markdown
from service.bench.report import chart
from service.bench.report.document import Caveat, Report, ReportedModel
from service.bench.report.tables import Cell, Table, evaluation_tables, result_tables

_METHOD = (
    "A model is on the front unless another model is more accurate (their 95 % intervals are apart), faster "
    "(p < 0.02 and a difference of at least 1 %), and not larger. So models that cannot be distinguished "
    "stay. Each pair of models is compared by itself, without Holm’s correction."
)


def to_html(report: Report) -> str:
    """Return the report as one HTML file that needs neither network nor script."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["coordinate"] = _coordinate
    fronts = {(front.task, front.labels): front for front in report.fronts}
    groups = []
    for group, table in result_tables(report).items():
        front = fronts.get(group)
        groups.append((None if front is None else chart.draw(front), front, table))
    return environment.get_template("report.html").render(
        report=report,
        serious=[caveat for caveat in report.caveats if caveat.serious],
        facts=list(_facts(report)),
        method=_METHOD if report.fronts else "",
        groups=groups,
        classes=evaluation_tables(report),
        legend=" ".join(_legend(report)),
        versions=list(_versions(report)),
        width=chart.WIDTH,
        height=chart.HEIGHT,
        left=chart.LEFT,
        right=chart.RIGHT,
        top=chart.TOP,
        bottom=chart.BOTTOM,
    )


def to_markdown(report: Report) -> str:
    """Return the report in GitHub's Markdown, short enough for a pull request."""
    return "\n".join(_markdown(report)) + "\n"


def to_csv(report: Report) -> str:
    """Return the report as CSV, with one row for each measured entry.

    An empty cell means that the value is unknown or withheld.
    """
    out = io.StringIO()
    rows = [_csv_row(report, model) for model in report.models]
    writer = csv.DictWriter(out, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _coordinate(value: float) -> str:
    return f"{value:.1f}"


def _signed(ratio: float) -> str:
    """Format a ratio as a signed change in percent. A decrease has a typographic minus sign."""
    return f"{ratio - 1:+.1%}".replace("-", "−")


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    benchmark, fingerprint = report.benchmark, report.fingerprint
    machine, software = fingerprint.machine, fingerprint.software
    cores = counted(machine.cores, "core", "cores")
    yield "Machine", f"{machine.cpu_model}, {cores}, {machine.architecture}"
    runtimes = ", ".join(f"{name} {version}" for name, version in software.runtimes.items())
    yield "Runtime", f"{runtimes}; {software.system}"
    yield "Measured", _period(benchmark.started_at, benchmark.finished_at)
    processes = counted(benchmark.launches, "process", "processes")
    yield (
        "Method",
        f"{benchmark.profile} {benchmark.scenario}: {processes} × "
        f"{counted(benchmark.rounds, 'round', 'rounds')}, models in a new random order in each round",
    )
    inputs = benchmark.inputs
    photos = counted(inputs.count, "photograph", "photographs")
    yield "Input", "one fixed picture" if inputs.kind == "synthetic" else photos
    control = benchmark.control
    if control is not None:
        low, high = control.low, control.high
        interval = "" if low is None or high is None else f" [{_signed(low)}, {_signed(high)}]"
        yield (
            "Control",
            f"the baseline {benchmark.baseline}, measured twice, differs from itself by "
            f"{_signed(control.ratio)}{interval}: {control.verdict}",
        )
    evaluation = report.evaluation
    if evaluation is not None:
        yield "Pictures", f"“{evaluation.name}”, {evaluation.n} distinct of {evaluation.pictures}"


def _period(start: datetime, end: datetime) -> str:
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    until = f"{end:%H:%M}" if start.date() == end.date() else f"{end:%Y-%m-%d %H:%M}"
    return f"{start:%Y-%m-%d %H:%M} to {until} (UTC)"


def _legend(report: Report) -> Iterator[str]:
    scenario = report.benchmark.scenario
    if scenario == "single-stream":
        yield (
            "p90 and p99: upper bound that holds with 99 % confidence, and in parentheses the plain estimate."
        )
    if scenario != "server":
        yield f"Speed-up: over the baseline {report.benchmark.baseline}."
        yield "Verdict: by p < 0.02 after Holm’s correction, and a difference of at least 1 %."
    if report.evaluation is not None:
        rivals = dict.fromkeys(
            f"{each.accuracy.rival} ({each.labels})"
            for each in report.models
            if each.accuracy is not None and each.accuracy.rival is not None
        )
        named = f": {', '.join(rivals)}" if rivals else ""
        yield f"Accuracy verdict: against the model with the highest accuracy, on the same pictures{named}."
    yield "Memory: peak of a process that runs only this model."
    yield "MACs: multiply–accumulate operations per image."
    if any(each.control for each in report.models):
        yield "The name with #again is the control."


def _versions(report: Report) -> Iterator[tuple[str, str]]:
    software = report.fingerprint.software
    yield "weighin", software.weighin
    yield from software.runtimes.items()
    yield "Python", software.python
    yield "instruction sets", " ".join(report.fingerprint.machine.isa) or "unknown"
    yield f"bundle {report.benchmark.name}, digest", report.benchmark.digest
    for sha256 in report.benchmark.inputs.sha256:
        yield "input picture, SHA-256", sha256
    if report.evaluation is not None:
        yield "labelled pictures, SHA-256", report.evaluation.sha256
    yield from {f"{each.model}, SHA-256": each.sha256 for each in report.models}.items()  # once per model


def _markdown(report: Report) -> Iterator[str]:
    yield f"### {in_markdown(report.title)}"
    yield ""
    for caveat in report.caveats:
        if caveat.serious:
            yield f"> **No evidence.** {in_markdown(_line(caveat))}"
            yield ""
    for answer in report.answers:
        yield f"- {in_markdown(answer)}"
    yield ""
    yield "; ".join(f"{name.lower()}: {in_markdown(value)}" for name, value in _facts(report))
    tables = result_tables(report).values()
    for table in tables:
        yield ""
        yield f"**{in_markdown(table.title)}**"
        yield ""
        yield from _markdown_table(table)
    front = f"● on the front. {_METHOD} " if any(table.marked for table in tables) else ""
    yield ""
    yield f"{front}{in_markdown(' '.join(_legend(report)))}"
    for table in evaluation_tables(report):
        yield ""
        yield f"<details><summary>{html.escape(table.title)}</summary>"
        yield ""
        yield from _markdown_table(table)
        if table.note:
            yield ""
            yield in_markdown(table.note)
        yield ""
        yield "</details>"
    if report.caveats:
        yield ""
        yield "**Caveats**"
        yield ""
        yield from (f"- {in_markdown(_line(caveat))}" for caveat in report.caveats)
    yield ""
    yield "<details><summary>Reproduce</summary>"
    yield ""
    yield "```sh"
    yield from (step.command for step in report.reproduce)
    yield "```"
    yield ""
    yield "| | |"
    yield "| --- | --- |"
    yield from (f"| {in_markdown(name)} | {in_markdown(value)} |" for name, value in _versions(report))
    yield ""
    yield "</details>"


def _line(caveat: Caveat) -> str:
    subjects = f" · {', '.join(caveat.subjects)}" if caveat.subjects else ""
    return f"{caveat.kind}{subjects}: {caveat.text}"


def _markdown_table(table: Table) -> Iterator[str]:
    yield _markdown_row([table.first, *map(_markdown_cell, table.headings)])
    yield _markdown_row(["---", *("---" if words else "---:" for words in table.words)])
    for row in table.rows:
        name = f"● {row.name}" if row.mark else row.name
        yield _markdown_row([in_markdown(name), *map(_markdown_cell, row.cells)])


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    return in_markdown(f"{cell.text} {cell.note}" if cell.note else cell.text)


def _csv_row(report: Report, model: ReportedModel) -> dict[str, object]:
    accuracy, latency, speed = model.accuracy, model.latency, model.speed_up
    front = report.front_model(model.entry)
    p90, p99 = (None, None) if latency is None else (latency.p90, latency.p99)
    return {
        "entry": model.entry,
        "model": model.model,
        "role": "baseline" if model.baseline else "control" if model.control else "",
        "task": model.task,
        "labels": model.labels,
        "precision": model.precision,
        "runtime": model.runtime,
        "threads": model.threads,
        "via": model.via,
        "accuracy": None if accuracy is None else accuracy.value,
        "accuracy_low": None if accuracy is None else accuracy.low,
        "accuracy_high": None if accuracy is None else accuracy.high,
        "accuracy_kind": None if accuracy is None else accuracy.kind,
        "accuracy_verdict": None if accuracy is None else accuracy.verdict,
        "accuracy_rival": None if accuracy is None else accuracy.rival,
        "runs": None if latency is None else latency.count,
        "p50_ms": None if latency is None else latency.p50_ms,
        "p50_low_ms": None if latency is None else latency.p50_low_ms,
        "p50_high_ms": None if latency is None else latency.p50_high_ms,
        "p90_ms": None if p90 is None else p90.estimate_ms,
        "p90_bound_ms": None if p90 is None else p90.bound_ms,
        "p99_ms": None if p99 is None else p99.estimate_ms,
        "p99_bound_ms": None if p99 is None else p99.bound_ms,
        "images_per_s": model.images_per_s,
        "queries_per_s": model.queries_per_s,
        "peak_memory_bytes": model.peak_memory_bytes,
        "file_bytes": model.bytes,
        "parameters": model.parameters,
        "macs": model.macs,
        "load_ms": model.load_ms,
        "first_run_ms": model.first_run_ms,
        "speed_up": None if speed is None else speed.value,
        "speed_up_low": None if speed is None else speed.low,
        "speed_up_high": None if speed is None else speed.high,
        "speed_verdict": None if speed is None else speed.verdict,
        "on_front": None if front is None or front.on_front is None else str(front.on_front).lower(),
        "sha256": model.sha256,
    }
