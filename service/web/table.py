"""The dashboard's table: counts, percentiles, errors and a sparkline per model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from models.zoo.statistics import MIN_SAMPLES
from service.latency.histogram import Summary
from service.latency.series import Figures
from service.latency.stages import STAGES

WIDTH, HEIGHT = 120, 24
"""Size of a sparkline in SVG units."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One percentile as text; `withheld` says why it is missing and is empty if it is not."""

    text: str
    withheld: str


@dataclass(frozen=True, slots=True)
class Row:
    """One stage of a model; `percentiles` are p50, p90, p95 and p99."""

    stage: str
    count: int
    percentiles: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one model, at least one, with its errors (all stages together) and sparkline.

    `line`: SVG point lists of the sparkline; empty for none. `assumed`: assumed facts of the model's card on
    which predictions depend. `heading`: title of the models from this one on; empty for none.
    """

    model: str
    rows: tuple[Row, ...]
    errors: str
    line: tuple[str, ...]
    assumed: tuple[str, ...] = ()
    heading: str = ""


def table(
    figures: Figures,
    names: Sequence[str],
    model: str,
    stage: str,
    lines: Mapping[str, Sequence[float | None]],
    assumed: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    detectors: Collection[str] = (),
) -> list[Group]:
    """Build a group for each of `names` with runs or errors; `model` and `stage` filter unless empty.

    `lines` are the values of the sparkline in ms, by model. Errors raised before the model was known form a
    group "(no model)", which is shown unless `model` filters. The `detectors` among the names come last,
    under a heading of their own if there are others.
    """
    groups: list[Group] = []
    last = [name for name in names if name in detectors]
    for name in [model] if model else [*(name for name in names if name not in last), "", *last]:
        rows = tuple(
            Row(row_stage, summary.count, _cells(summary))
            for row_stage in STAGES
            if row_stage == (stage or row_stage)
            and (summary := figures.summaries.get((name, row_stage))) is not None
        )
        errors = errors_text(figures.errors.get(name, {}))
        if rows or errors:
            empty = Row("", 0, (Cell("", ""),) * len(MIN_SAMPLES))
            line = sparkline(lines.get(name, ()))
            begins = name in last and groups and groups[-1].model not in last
            groups.append(
                Group(
                    name or "(no model)",
                    rows or (empty,),
                    errors,
                    line,
                    assumed.get(name, ()),
                    "Detectors" if begins else "",
                )
            )
    return groups


def _cells(summary: Summary) -> tuple[Cell, ...]:
    """Return the cells of the four percentiles; a missing one has a dash and the number of runs it needs."""
    values = (summary.p50_ms, summary.p90_ms, summary.p95_ms, summary.p99_ms)
    return tuple(
        Cell("–", f"too few runs (needs {needed})") if value is None else Cell(milliseconds_text(value), "")
        for value, needed in zip(values, MIN_SAMPLES.values(), strict=True)
    )


def milliseconds_text(value: float) -> str:
    """Format milliseconds with about four significant digits, at most three decimals."""
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def errors_text(errors: Mapping[str, int]) -> str:
    """Format error counts by kind, most frequent first."""
    ranked = sorted(errors.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {slug}" for slug, count in ranked)


def sparkline(values: Sequence[float | None]) -> tuple[str, ...]:
    """Return SVG point lists of `values` from left to right, 0 at the bottom, split at missing values.

    A value without neighbours becomes the same point twice, which a round line cap draws as a dot.
    """
    known = [value for value in values if value is not None]
    if not known:
        return ()
    top = max(known) or 1.0
    step = WIDTH / max(1, len(values) - 1)
    pieces: list[list[str]] = [[]]
    for index, value in enumerate(values):
        if value is not None:
            pieces[-1].append(f"{index * step:.1f},{HEIGHT * (1 - value / top):.1f}")
        elif pieces[-1]:
            pieces.append([])
    return tuple(" ".join(piece * 2 if len(piece) == 1 else piece) for piece in pieces if piece)
