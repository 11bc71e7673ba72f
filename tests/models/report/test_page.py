"""`docs/zoo.md` matches the cards, and is checked without torch."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from models.cli import main
from models.cost.latency import Latency, Measurement, measurement
from models.report.page import REFERENCE, page, page_from_files
from models.report.results import FIGURES, Row, front, inversions, rows
from models.zoo.card import Accuracy, Card, read_card, write_card
from service.bench.bundle import Bundle, Flag, ModelFacts
from service.bench.bundle_file import to_json, write_bundle
from tests.service.bench import bundles


@pytest.fixture
def zoo(tiny_models_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models_dir, tmp_path / "zoo"))


def bundle_of(zoo: Path, **p50_ms: float) -> Bundle:
    """A bundle of 3 rounds of 5 runs on a machine that does not exist."""
    cards = [read_card(path.parent) for path in sorted(zoo.glob("*/card.json"))]
    times = {card.name: p50_ms.get(card.name.replace("-", "_"), 1.0) for card in cards}
    times["again"] = times[cards[0].name]
    samples = {name: [[[int(1e6 * time)] * 5] * 3] for name, time in times.items()}
    bundle = bundles.bundle(samples, control="again", on=bundles.fingerprint("a machine"))
    return bundle.model_copy(update={"models": tuple(ModelFacts.of(card) for card in cards)})


def measured_of(bundle: Bundle) -> Measurement:
    return measurement(json.loads(to_json(bundle)))


def row(tiny: Card, name: str, accuracy: float, p50_ms: float, macs: int) -> Row:
    measured = Accuracy(value=accuracy, kind="measured", dataset="d", n=100, how="h")
    card = tiny.model_copy(update={"name": name, "accuracy": measured, "macs": macs})
    return Row(card, Latency(p50_ms, p50_ms, p50_ms))


def test_page_lists_models_fastest_first(zoo: Path) -> None:
    text = page(zoo, measured_of(bundle_of(zoo, tiny=0.5, tiny_b=0.25)))
    assert text.index("| `tiny-b` |") < text.index("| `tiny` |")
    assert "## tiny-10" in text
    assert "| 0.250 ms (0.250 to 0.250) |" in text
    assert "a machine (avx2), 2 cores, ONNX Runtime 1.32.0. Method: 3 rounds of 5 runs" in text
    assert "Unreliable" not in text


def test_page_of_unreliable_measurement(zoo: Path) -> None:
    dirty = bundle_of(zoo).with_flag(Flag(kind="dirty", reason="others ran"))
    assert "**Unreliable measurement**: dirty: others ran." in page(zoo, measured_of(dirty))


def test_pareto_front_and_inversions(zoo: Path) -> None:
    tiny = read_card(zoo / "tiny")
    models = [
        row(tiny, "slow", 0.95, 4.0, 10),
        row(tiny, "quick", 0.90, 1.0, 30),
        row(tiny, "beaten", 0.89, 2.0, 20),
    ]
    slow, quick, beaten = models
    assert front(models, "p50_ms") == [quick, slow]
    assert front(models, "macs") == [slow]
    assert inversions(models) == [(slow, quick), (slow, beaten), (beaten, quick)]


def test_model_changed_since_measurement(zoo: Path) -> None:
    measured = measured_of(bundle_of(zoo))
    assert len(rows(zoo, measured)) == 2
    changed = replace(measured, models={**measured.models, "tiny": {"sha256": "0" * 64}})
    with pytest.raises(
        ValueError, match="tiny: not measured, or changed since; run: python -m models report"
    ):
        rows(zoo, changed)


def test_check_of_changed_card(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, output = bundle_of(zoo), zoo.parent / "zoo.md"
    output.write_text(page(zoo, measured_of(bundle)))
    write_bundle(zoo.parent / FIGURES, bundle)
    command = ["report", "--check", "--zoo", str(zoo), "--output", str(output)]
    assert main(command) == 0
    card = read_card(zoo / "tiny")
    write_card(zoo / "tiny", card.model_copy(update={"block": "another"}))
    assert main(command) == 1
    assert "differs from the cards" in capsys.readouterr().err
    (zoo.parent / FIGURES).write_text("{}")
    assert main(command) == 1
    assert "not a measurement of a zoo" in capsys.readouterr().err


def test_reference_networks_on_the_page(zoo: Path) -> None:
    output = zoo.parent / "zoo.md"
    write_bundle(zoo.parent / FIGURES, bundle_of(zoo))
    assert "Reference networks" not in page_from_files(output, zoo)
    floating = [[2_500_000] * 3, [2_400_000] * 3, [2_750_000] * 3]
    samples = {
        "squeezenet-fp32": [floating],
        "squeezenet-fp32#again": [[[2_510_000] * 3] * 3],
        "squeezenet-int8": [[[1_250_000] * 3, [1_200_000] * 3, [1_300_000] * 3]],
    }
    bundle = bundles.bundle(samples, control="squeezenet-fp32#again", on=bundles.fingerprint("a CPU"))
    facts = bundle.models[0].model_copy(update={"parameters": 1235496, "macs": 349151936})
    bundle = bundle.model_copy(update={"models": (facts, *bundle.models[1:])})
    (zoo.parent / REFERENCE).write_text(f"[{to_json(bundle)}]")
    text = page_from_files(output, zoo)
    assert "## Reference networks at ImageNet's size, untrained" in text
    assert (
        "| squeezenet | 224 | 1.24 M | 349 M | 2.50 (2.40 to 2.75) | 1.25 (1.20 to 1.30) | 2.00 | 58.2 %"
        in text
    )
    assert "Machine: a CPU (avx2), 2 cores, ONNX Runtime 1.32.0. Method: one thread, 3 rounds;" in text
    assert "a round runs a network and its int8 form 3 times each, in random order." in text
    assert "ratios of the two times: 1.004 to 1.004." in text
    other = bundle.model_copy(update={"fingerprint": bundles.fingerprint("another CPU")})
    for damaged in ("[{}]", "{}", "[]", f"[{to_json(bundle)},{to_json(other)}]"):
        (zoo.parent / REFERENCE).write_text(damaged)
        with pytest.raises(ValueError, match="not a measurement of the reference networks"):
            page_from_files(output, zoo)


@pytest.mark.torch
def test_report_writes_page_and_plots(zoo: Path) -> None:
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


@pytest.mark.slow
def test_committed_page_matches_the_cards() -> None:
    root = COMMITTED.parents[1]
    assert COMMITTED.read_text() == page_from_files(COMMITTED, root / "models" / "zoo" / "networks")
