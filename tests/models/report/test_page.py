"""`docs/zoo.md` says what the cards say, notices when they change, and needs no torch to be checked."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from models.__main__ import main
from models.report.page import REFERENCE, page, page_beside
from models.report.weighed import FIGURES, Figures, Row, as_json, front, inversions, rows
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


def test_the_reference_networks_are_told_of_where_they_were_measured(zoo: Path) -> None:
    output = zoo.parent / "zoo.md"
    (zoo.parent / FIGURES).write_text(as_json(figures_of(zoo)))
    assert "Reference networks" not in page_beside(output, zoo)
    latency = {"p50_ms": 2.5, "low_ms": 2.4, "high_ms": 2.75}
    published = {"top_1": 58.2, "parameters": 1.24, "macs": 349, "source": "somebody's table"}
    network = {"network": "squeezenet", "input_size": 224, "parameters": 1235496, "macs": 349151936}
    network |= {"published": published, "fp32": latency, "int8": latency, "int8_speedup": 1.5}
    figures = {
        "networks": [network],
        "machine": {"cpu": "a CPU", "instruction_set": ["avx2"]},
        "dirty": False,
    }
    figures |= {"runtime": "a runtime", "rounds": 20, "runs": 32, "control_ratio": 1.004}
    (zoo.parent / REFERENCE).write_text(json.dumps(figures))
    text = page_beside(output, zoo)
    assert "## Reference networks at ImageNet's size, untrained" in text
    assert (
        "| squeezenet | 224 | 1.24 M | 349 M | 2.50 (2.40 to 2.75) | 2.50 (2.40 to 2.75) | 1.50 | 58.2 %"
        in text
    )
    assert "20 rounds of 32 runs" in text
    (zoo.parent / REFERENCE).write_text('{"networks": [{}]}')
    with pytest.raises(ValueError, match="no measurement of the reference networks"):
        page_beside(output, zoo)


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


COMMITTED = Path(__file__).resolve().parents[3] / "docs" / "zoo.md"


def test_the_committed_page_is_what_the_cards_say() -> None:
    root = COMMITTED.parents[1]
    assert COMMITTED.read_text() == page_beside(COMMITTED, root / "models" / "zoo" / "networks")
