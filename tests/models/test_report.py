"""`docs/zoo.md` says what the cards say, notices when they change, and needs no torch to be checked."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from models.__main__ import main
from models.report import FIGURES, Figures, Row, as_json, front, inversions, page, rows
from models.zoo.card import Accuracy, Card, read_card, write_card


@pytest.fixture
def zoo(tiny_models_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models_dir, tmp_path / "zoo"))


def figures_of(zoo: Path, **p50_ms: float) -> Figures:
    cards = [read_card(path.parent) for path in zoo.glob("*/card.json")]
    times = {card.name: p50_ms.get(card.name.replace("-", "_"), 1.0) for card in cards}
    return Figures("a machine", 3, 5, times, {card.name: card.file.sha256 for card in cards})


def row(tiny: Card, name: str, accuracy: float, p50_ms: float, macs: int) -> Row:
    measured = Accuracy(value=accuracy, kind="measured", dataset="d", n=100, how="h")
    return Row(tiny.model_copy(update={"name": name, "accuracy": measured, "macs": macs}), p50_ms)


def test_the_page_lists_every_model_the_fastest_first(zoo: Path) -> None:
    text = page(zoo, figures_of(zoo, tiny=0.5, tiny_b=0.25))
    assert text.index("| `tiny-b` |") < text.index("| `tiny` |")
    assert "## tiny-10" in text
    assert "0.250 ms" in text
    assert "a machine: 3 rounds of 5 runs" in text


def test_the_front_is_what_nothing_beats(zoo: Path) -> None:
    tiny = read_card(zoo / "tiny")
    found = [
        row(tiny, "slow", 0.95, 4.0, 10),
        row(tiny, "quick", 0.90, 1.0, 30),
        row(tiny, "beaten", 0.89, 2.0, 20),
    ]
    assert front(found, "p50_ms") == ["quick", "slow"]
    assert front(found, "macs") == ["slow"]
    assert inversions(found) == [("slow", "quick"), ("slow", "beaten"), ("beaten", "quick")]


def test_a_model_that_changed_since_it_was_measured_is_named(zoo: Path) -> None:
    figures = figures_of(zoo)
    assert len(rows(zoo, figures)) == 2
    changed = replace(figures, sha256=dict(figures.sha256) | {"tiny": "0" * 64})
    with pytest.raises(ValueError, match="not measured as they are now: tiny; run: python -m models report"):
        rows(zoo, changed)


def test_a_card_that_changed_is_found_by_the_check(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures, output = figures_of(zoo), zoo.parent / "zoo.md"
    output.write_text(page(zoo, figures))
    (zoo.parent / FIGURES).write_text(as_json(figures))
    command = ["report", "--check", "--zoo", str(zoo), "--output", str(output)]
    assert main(command) == 0
    card = read_card(zoo / "tiny")
    write_card(zoo / "tiny", card.model_copy(update={"block": "another"}))
    assert main(command) == 1
    assert "is not what the cards say" in capsys.readouterr().err
    (zoo.parent / FIGURES).write_text("{}")
    assert main(command) == 1
    assert "no measurement of a zoo" in capsys.readouterr().err


@pytest.mark.torch
def test_a_fresh_measurement_is_written_with_its_pictures(zoo: Path) -> None:
    pytest.importorskip("torch")
    accuracy = Accuracy(value=0.5, kind="measured", dataset="d", n=100, how="h")
    write_card(zoo / "tiny", read_card(zoo / "tiny").model_copy(update={"accuracy": accuracy}))
    output = zoo.parent / "docs" / "zoo.md"
    command = ["report", "--zoo", str(zoo), "--output", str(output)]
    assert main([*command, "--rounds", "1", "--runs", "2"]) == 0
    assert sorted(path.name for path in output.parent.iterdir()) == [
        FIGURES,
        "zoo-tiny-10-macs.svg",
        "zoo-tiny-10-p50.svg",
        "zoo.md",
    ]
    assert main([*command, "--check"]) == 0


COMMITTED = Path(__file__).resolve().parents[2] / "docs" / "zoo.md"


@pytest.mark.skipif(not COMMITTED.exists(), reason="docs/zoo.md is made when the family is trained")
def test_the_committed_page_is_what_the_cards_say() -> None:
    root = COMMITTED.parents[1]
    assert COMMITTED.read_text() == page(root / "models/zoo", Figures.read(COMMITTED.with_name(FIGURES)))
