"""Architecture search: budget, measured latency, resuming after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("optuna")

import optuna

from models.architectures.designed import Design, Stage
from models.architectures.fashion import BUDGET, design_of
from models.compress.search import (
    BLOCKS,
    NARROWING,
    STORAGE,
    STUDY,
    WIDENING,
    Candidate,
    OverBudgetError,
    fit_to_budget,
    macs_of,
    measured_again,
    p50_ms,
    read_candidates,
    search,
    suggest,
    winner,
    write_candidates,
)
from models.report.pictures import draw_front

pytestmark = pytest.mark.torch


def by_width(design: Design) -> float:
    """A substitute for training: wider designs are more accurate."""
    return min(0.99, sum(stage.channels for stage in design.stages) / 600)


def by_macs(design: Design) -> float:
    """A substitute for measuring: latency in proportion to MACs."""
    return macs_of(design) / 1e8


def test_killed_search_resumes(tmp_path: Path) -> None:
    judged: list[Design] = []

    def cut_off(design: Design) -> float:
        if len(judged) == 2:
            raise KeyboardInterrupt
        judged.append(design)
        return by_width(design)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, 4, cut_off, report=lambda _line: None, measure_p50_ms=by_macs)
    assert len(read_candidates(tmp_path)) == 2
    lines: list[str] = []
    candidates = search(tmp_path, 4, by_width, report=lines.append, measure_p50_ms=by_macs)
    assert len(candidates) == 4
    assert len(lines) == 2
    assert [c.design for c in candidates][:2] == judged
    assert all(0 < c.macs <= BUDGET and c.p50_ms > 0 for c in candidates)
    best = [c for c in candidates if c.best]
    assert best
    for candidate in best:
        assert not any(o.accuracy > candidate.accuracy and o.p50_ms < candidate.p50_ms for o in candidates)
    assert search(tmp_path, 4, cut_off, report=lines.append) == candidates

    draw_front(candidates, tmp_path / "front.svg")
    text = (tmp_path / "front.svg").read_text()
    assert text.startswith("<?xml")
    assert str(tmp_path) not in text
    write_candidates(candidates, tmp_path / "all.json")
    entries = json.loads((tmp_path / "all.json").read_text())
    assert [Design.model_validate(entry["design"]) for entry in entries] == [
        c.design for c in sorted(candidates, key=lambda c: c.p50_ms)
    ]


def test_search_with_another_training(tmp_path: Path) -> None:
    (candidate,) = search(tmp_path, 1, by_width, "3 epochs", report=lambda _line: None)
    assert candidate.p50_ms > 0
    with pytest.raises(ValueError, match="trained for 3 epochs, not 4 epochs; give another --runs"):
        search(tmp_path, 1, by_width, "4 epochs", report=lambda _line: None)


def test_latency_is_measured_and_macs_are_counted() -> None:
    small, large = design_of("fashion-depthwise-separable"), design_of("fashion-standard-equal-width")
    assert macs_of(small) < BUDGET < macs_of(large)
    assert 0.005 < p50_ms(small, runs=30) < p50_ms(large, runs=30)


def test_design_over_budget_is_narrowed() -> None:
    small, large = design_of("fashion-depthwise-separable"), design_of("fashion-standard-equal-width")
    assert fit_to_budget(small, BUDGET) == small
    narrowed = fit_to_budget(large, BUDGET)
    assert 0.8 * BUDGET < macs_of(narrowed) <= BUDGET
    assert [stage.repeats for stage in narrowed.stages] == [stage.repeats for stage in large.stages]
    assert fit_to_budget(large.model_copy(update={"head": 128}), BUDGET).head == 128
    with pytest.raises(OverBudgetError, match="over 1000 multiply-accumulates at any width"):
        fit_to_budget(large, 1000)


def test_grouped_channels_are_rounded() -> None:
    stages = (Stage(block="grouped", channels=48, repeats=2), Stage(block="grouped", channels=112, repeats=1))
    with pytest.raises(ValueError, match="groups: 3 do not divide"):
        macs_of(Design(stem=16, stages=stages))
    built = fit_to_budget(Design(stem=16, stages=stages), BUDGET)
    assert [stage.channels for stage in built.stages] == [48, 96]


def test_suggestions_fit_the_budget() -> None:
    blocks = set()
    for seed in range(30):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
        design = fit_to_budget(suggest(study.ask()), BUDGET)
        assert 0 < macs_of(design) <= BUDGET
        assert (design.stages[0].ratio is not None) == (design.block() in WIDENING + NARROWING)
        blocks.add(design.block())
    assert blocks == set(BLOCKS)


def test_duplicate_design_is_not_retrained(tmp_path: Path) -> None:
    judged: list[Design] = []

    def judge(design: Design) -> float:
        judged.append(design)
        return by_width(design)

    search(tmp_path, 2, judge, report=lambda _line: None, measure_p50_ms=by_macs)
    study = optuna.load_study(study_name=STUDY, storage=f"sqlite:///{tmp_path / STORAGE}")
    study.enqueue_trial(study.trials[0].params)
    candidates = search(tmp_path, 3, judge, report=lambda _line: None, measure_p50_ms=by_macs)
    again = study.trials[2]
    assert again.user_attrs["same_as"] == 0
    assert again.values == study.trials[0].values
    assert 2 not in [candidate.number for candidate in candidates]
    assert judged == [candidate.design for candidate in candidates]


def test_winner_is_most_accurate_within_limit() -> None:
    design = design_of("fashion-ghost")
    assert eval(repr(design), {"Design": Design, "Stage": Stage}) == design  # what `search` prints to paste
    accuracies_and_times = [(0.95, 9.0), (0.93, 5.0), (0.93, 4.0), (0.92, 1.0)]
    candidates = [
        Candidate(number, design, accuracy, p50, 1, True)
        for number, (accuracy, p50) in enumerate(accuracies_and_times)
    ]
    assert winner(candidates, 5.0).number == 2
    with pytest.raises(ValueError, match=r"4 candidates: none with p50 of at most 0\.500 ms"):
        winner(candidates, 0.5)


def test_missing_search_and_empty_plot() -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no search"):
        read_candidates(Path("nowhere"))
    with pytest.raises(ValueError, match="no candidates"):
        draw_front([], Path("front.svg"))


def test_candidates_measured_again_keep_accuracy_and_get_another_front(tmp_path: Path) -> None:
    def reversed_cost(design: Design) -> float:
        """Another machine, on which designs cost the reverse of what they did."""
        return 1 - by_macs(design)

    before = search(tmp_path, 4, by_width, report=lambda _line: None, measure_p50_ms=by_macs)
    write_candidates(before, tmp_path / "all.json")
    after = measured_again(tmp_path / "all.json", report=lambda _line: None, measure_p50_ms=reversed_cost)
    by_number = {candidate.number: candidate for candidate in before}
    assert len(after) == 4
    for candidate in after:
        earlier = by_number[candidate.number]
        assert (candidate.design, candidate.accuracy) == (earlier.design, earlier.accuracy)
        assert candidate.p50_ms == reversed_cost(candidate.design)
    assert min(after, key=lambda candidate: candidate.p50_ms).best
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(ValueError, match="no candidates"):
        measured_again(tmp_path / "none.json")
