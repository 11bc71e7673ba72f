"""The dashboard's table: counts, percentiles or why they are withheld, errors and a sparkline per model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models.zoo.statistics import MIN_SAMPLES
from service.latency.histogram import Summary
from service.latency.series import Figures
from service.latency.stages import STAGES
from service.web.sparkline import sparkline


@dataclass(frozen=True, slots=True)
class Cell:
    """One percentile in the table, or why it is withheld."""

    text: str
    withheld: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One stage of a model; `percentiles` are p50, p90, p95 and p99."""

    stage: str
    count: int
    percentiles: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """One model's rows of the table, at least one; errors and sparkline belong to no single stage.

    `line`: SVG point lists of the sparkline; empty for none.
    """

    model: str
    rows: tuple[Row, ...]
    errors: str
    line: tuple[str, ...]


def table(
    figures: Figures,
    names: Sequence[str],
    model: str,
    stage: str,
    lines: Mapping[str, Sequence[float | None]],
) -> list[Group]:
    """The rows of each of `names` that has any, of one model or stage where these are not empty.

    `lines`: by model, the values of its sparkline. Errors that came before a model was known stand in a group
    without a model, where all models are shown.
    """
    groups = []
    for name in [model] if model else [*names, ""]:
        rows = tuple(
            Row(one, summary.count, _cells(summary))
            for one in STAGES
            if one == (stage or one) and (summary := figures.summaries.get((name, one))) is not None
        )
        errors = errors_text(figures.errors.get(name, {}))
        if rows or errors:
            none = Row("", 0, (Cell("", False),) * len(MIN_SAMPLES))
            line = sparkline(lines.get(name, ()))
            groups.append(Group(name or "(no model)", rows or (none,), errors, line))
    return groups


def _cells(summary: Summary) -> tuple[Cell, ...]:
    """The four percentiles; one that is None says how many samples it needs."""
    values = (summary.p50_ms, summary.p90_ms, summary.p95_ms, summary.p99_ms)
    return tuple(
        Cell(f"n too small (needs {needed})", True)
        if value is None
        else Cell(milliseconds_text(value), False)
        for value, needed in zip(values, MIN_SAMPLES.values(), strict=True)
    )


def milliseconds_text(value: float) -> str:
    """Milliseconds with about four significant digits, never more than a microsecond's worth."""
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def errors_text(errors: Mapping[str, int]) -> str:
    """How many errors of which kind, the most frequent first."""
    ranked = sorted(errors.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {slug}" for slug, count in ranked)
