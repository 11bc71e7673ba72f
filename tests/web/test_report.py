"""A report in a browser: opened from disk, in both themes, on narrow and wide screens, and printed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest

from service.bench.bundle import Flag
from service.bench.report.render import to_html
from tests.helpers.until import until
from tests.service.bench.report.reports import Model, benchmark, report
from tests.service.evaluation.evaluations import evaluation
from tests.web.watched import Watched

pytestmark = pytest.mark.web

Visit = Callable[..., Watched]
EXAMPLE = Path(__file__).resolve().parents[2] / "docs/report-example.html"
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
COLOURS = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 29)"}
LABELS = """[...document.querySelectorAll("svg")].map((svg) => [...svg.querySelectorAll("text.label")].map(
  (label) => { const box = label.getBBox(); return [label.textContent, box.x, box.y, box.width, box.height]; }
))"""


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a report with a serious caveat, a dominated model and an evaluation."""
    models = {
        "exact": Model(8.0, 0.9),
        "quick": Model(2.0, 0.7, 3_000_000),
        "worse": Model(9.0, 0.6, 9_000_000),
    }
    made = report(
        benchmark(models, runs=10).with_flag(Flag(kind="dirty", reason="3.1 % steal")),
        evaluation({name: [i % (3 + k) > 0 for i in range(60)] for k, name in enumerate(models)}),
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(to_html(made))
    return path


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["example", "evaluated"])
def test_report_from_disk(visit: Visit, evaluated: Path, which: str, scheme: str, width: int) -> None:
    path = EXAMPLE if which == "example" else evaluated
    one = visit(path.as_uri(), width=width, color_scheme=scheme)
    assert one.page.evaluate(BACKGROUND) == COLOURS[scheme]
    assert one.overflow() == 0
    assert one.requests == [path.as_uri()]
    assert one.violations() == []


def test_labels_of_the_chart_do_not_overlap(visit: Visit) -> None:
    """The widths are those of the browser's font, not the chart's estimate."""
    charts = visit(EXAMPLE.as_uri()).page.evaluate(LABELS)
    assert [len(labels) for labels in charts] == [6, 18]
    for labels in charts:
        for (one, x, y, width, height), (other, x2, y2, width2, height2) in combinations(labels, 2):
            apart = x + width <= x2 or x2 + width2 <= x or y + height <= y2 + 1 or y2 + height2 <= y + 1
            assert apart, (one, other)


def test_table_fits_a_wide_screen(visit: Visit) -> None:
    page = visit(EXAMPLE.as_uri(), width=1280).page
    hidden = page.evaluate(
        '[...document.querySelectorAll(".scroll")].map((box) => box.scrollWidth - box.clientWidth)'
    )
    assert set(hidden) == {0}


def test_report_in_print(visit: Visit, evaluated: Path) -> None:
    """Print is light in both themes, on A4 paper, without a part that is cut off at the edge."""
    for path in (EXAMPLE, evaluated):
        page = visit(path.as_uri(), color_scheme="dark").page
        paper = page.pdf(prefer_css_page_size=True)
        assert paper.startswith(b"%PDF-")
        page.emulate_media(media="print")
        assert page.evaluate(BACKGROUND) == COLOURS["light"]
        # A4 in landscape without its margins, at 96 pixels per inch
        page.set_viewport_size({"width": round((297 - 28) / 25.4 * 96), "height": 700})
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider == 0


def test_tables_scroll_by_keyboard(visit: Visit) -> None:
    page = visit(EXAMPLE.as_uri(), width=360).page
    region = page.get_by_role("region", name="imagenet-1k", exact=True)
    region.focus()
    page.keyboard.press("ArrowRight")
    # not wait_for_function, which polls with eval: the page's content security policy forbids that
    until(lambda: region.evaluate("node => node.scrollLeft") > 0, "the table to scroll")
