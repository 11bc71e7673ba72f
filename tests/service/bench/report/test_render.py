"""Reports as HTML, Markdown and CSV: the same figures, and text from outside that stays text."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from datetime import datetime
from html.parser import HTMLParser
from itertools import groupby

import pytest

from service.bench.bundle import Flag
from service.bench.report.document import Report
from service.bench.report.render import to_csv, to_html, to_markdown
from service.bench.report.tables import (
    MOST_CLASSES,
    MOST_MODELS,
    Cell,
    Table,
    evaluation_tables,
    result_tables,
)
from service.evaluation.result import Evaluation
from tests.service.bench.report.reports import Model, benchmark, report
from tests.service.evaluation.evaluations import evaluation

HOSTILE = "<script>alert(1)</script> | `a` *b* [x](javascript:1) {{ 7 * 7 }}"
MODELS = {
    "exact": Model(ms=8.0, accuracy=0.90, bytes=9_000_000),
    "quick": Model(ms=2.0, accuracy=0.70, bytes=3_000_000),
    "worse": Model(ms=9.0, accuracy=0.60, bytes=9_500_000),
}


def hostile_evaluation() -> Evaluation:
    """Return an evaluation with hostile texts for the data, a note, and a class, which is in a table."""
    made = evaluation({"exact": [True, False] * 20, "quick": [True] * 40})
    data = made.data.model_copy(update={"name": HOSTILE, "notes": (HOSTILE,)})
    models = []
    for model in made.models:
        result = model.classification
        assert result is not None
        first, *rest = result.per_class
        classes = (first.model_copy(update={"name": HOSTILE}), *rest)
        models.append(
            model.model_copy(update={"classification": result.model_copy(update={"per_class": classes})})
        )
    return made.model_copy(update={"data": data, "models": tuple(models)})


@pytest.fixture(scope="module")
def made() -> Report:
    bundle = benchmark(MODELS).with_flag(Flag(kind="dirty", reason=HOSTILE))
    return report(bundle, hostile_evaluation(), name=HOSTILE)


class Parsed(HTMLParser):
    """Tags with their attributes, the text, and the rows of all tables as texts of their cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "path", "circle"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "th" in self.open or "td" in self.open:
            self.rows[-1][-1] += data


def all_tables(made: Report) -> list[Table]:
    return [*result_tables(made).values(), *evaluation_tables(made)]


def texts(cells: Iterable[Cell]) -> list[str]:
    return [f"{cell.text} {cell.note}".strip() for cell in cells]


def test_html_is_one_file_without_scripts(made: Report) -> None:
    text = to_html(made)
    parsed = Parsed(text)
    assert parsed.open == []
    names = {tag for tag, _ in parsed.tags}
    assert not names & {"script", "link", "img", "iframe", "a", "object", "form", "base"}
    attributes = {name for _, attributes in parsed.tags for name in attributes}
    assert not {name for name in attributes if name.startswith("on")} | attributes & {"src", "href", "style"}
    assert not re.search(r"https?:|url\(|@import", text)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_html_shows_text_from_outside_as_text(made: Report) -> None:
    parsed = Parsed(to_html(made))
    assert parsed.text.count(HOSTILE) >= 3
    assert "These figures are no evidence:" in parsed.text


def test_html_has_every_figure(made: Report) -> None:
    parsed = Parsed(to_html(made))
    expected = []
    for table in all_tables(made):
        expected.append([table.first, *texts(table.headings)])
        for row in table.rows:
            name = f"●{row.name} (on the front)" if row.mark else row.name
            expected.append([name, *texts(row.cells)])
    assert parsed.rows == expected
    assert "Not on the front:" in parsed.text


def test_markdown_tables_have_their_columns(made: Report) -> None:
    lines = to_markdown(made).splitlines()
    blocks = [
        list(block) for is_table, block in groupby(lines, lambda line: line.startswith("|")) if is_table
    ]
    *blocks, versions = blocks
    for table, block in zip(all_tables(made), blocks, strict=True):
        assert len(block) == len(table.rows) + 2
        assert {columns(line) for line in block} == {len(table.headings) + 1}
        assert re.fullmatch(r"\|( ---:? \|)+", block[1])
    assert {columns(line) for line in versions} == {2}
    assert any(r"\| \`a\`" in line for line in blocks[2])


def columns(line: str) -> int:
    """Return the number of cells of a row in Markdown, whose escaped bars separate nothing."""
    return re.sub(r"\\.", "", line).count("|") - 1


def test_markdown_escapes_text_from_outside(made: Report) -> None:
    text = re.sub(r"^```sh$.*?^```$", "", to_markdown(made), flags=re.MULTILINE | re.DOTALL)
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\| \\`a\\` \\*b\\* \\[x\\](javascript:1)" in text
    assert text.count("<details>") == text.count("</details>") == 3
    assert "> **No evidence.** dirty: " in text


def test_markdown_without_a_front_has_the_legend() -> None:
    bundle = benchmark(MODELS)
    models = tuple(facts.model_copy(update={"accuracy": None}) for facts in bundle.models)
    text = to_markdown(report(bundle.model_copy(update={"models": models})))
    assert "● on the front" not in text
    assert "\np90 and p99: upper bound that holds with 99 % confidence" in text
    assert "Speed-up: over the baseline exact." in text


def test_legend_names_the_model_that_accuracies_are_compared_with(made: Report) -> None:
    legend = "against the model with the highest accuracy, on the same pictures: quick (imagenet-1k)."
    assert legend in Parsed(to_html(made)).text
    assert legend in to_markdown(made)


@pytest.mark.parametrize(
    ("started", "finished", "period"),
    [
        ("2026-11-24T12:00Z", "2026-11-24T13:05Z", "2026-11-24 12:00 to 13:05 (UTC)"),
        ("2026-11-24T23:50Z", "2026-11-25T00:30Z", "2026-11-24 23:50 to 2026-11-25 00:30 (UTC)"),
        ("2026-11-25T00:50+02:00", "2026-11-25T01:10+02:00", "2026-11-24 22:50 to 23:10 (UTC)"),
    ],
)
def test_period_of_the_benchmark_is_in_utc(started: str, finished: str, period: str) -> None:
    times = {"started_at": datetime.fromisoformat(started), "finished_at": datetime.fromisoformat(finished)}
    text = to_markdown(report(benchmark(MODELS).model_copy(update=times)))
    assert f"measured: {period};" in text


def test_csv_has_the_figures_of_the_document(made: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(made))))
    assert [row["entry"] for row in rows] == [each.entry for each in made.models]
    for row, each in zip(rows, made.models, strict=True):
        assert each.latency is not None
        assert float(row["p50_ms"]) == each.latency.p50_ms
        assert each.latency.p99 is not None
        assert float(row["p99_bound_ms"]) == each.latency.p99.bound_ms
        assert row["accuracy"] == ("" if each.accuracy is None else str(each.accuracy.value))
        assert row["accuracy_rival"] == ("quick" if each.model == "exact" else "")
        assert int(row["file_bytes"]) == each.bytes
    assert {row["entry"]: row["on_front"] for row in rows}["exact#again"] == ""
    assert [row["role"] for row in rows] == ["baseline", "", "", "control"]


def test_few_runs_leave_a_reason() -> None:
    few = report(benchmark(MODELS, runs=10))
    (table,) = result_tables(few).values()
    column = [heading.text for heading in table.headings].index("p99")
    assert [(row.cells[column].text, row.cells[column].note) for row in table.rows] == [
        ("–", "120 < 662 runs")
    ] * 4
    assert "120 &lt; 662 runs" in to_html(few)
    assert all(row["p99_ms"] == "" for row in csv.DictReader(io.StringIO(to_csv(few))))


def test_hardest_classes_of_many() -> None:
    made = report(benchmark(MODELS), evaluation({"exact": [True, False] * 20}))
    assert made.evaluation is not None
    model = made.evaluation.models[0]
    share = model.per_class[0]
    classes = tuple(
        share.model_copy(update={"name": f"class {i}", "value": 1 - i / 1000})
        for i in range(MOST_CLASSES + 5)
    )
    models = tuple(
        model.model_copy(
            update={
                "model": f"model-{i}",
                "per_class": classes,
                "accuracy": model.accuracy.model_copy(update={"value": i / 100}),
            }
        )
        for i in range(MOST_MODELS + 2)
    )
    evaluated = made.evaluation.model_copy(update={"models": models})
    _, table = evaluation_tables(made.model_copy(update={"evaluation": evaluated}))
    assert len(table.rows) == MOST_CLASSES
    assert table.rows[0].name == f"class {MOST_CLASSES + 4}"
    assert [heading.text for heading in table.headings[1:]] == [
        f"model-{i}" for i in range(2, MOST_MODELS + 2)
    ]
    assert table.note.startswith("Left out: 5 easier classes and 2 less accurate models; ")
