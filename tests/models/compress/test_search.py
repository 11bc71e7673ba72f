"""The search stays within the budget, measures latency itself, and goes on after it was cut off."""

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
    found,
    macs_of,
    p50_ms,
    search,
    suggest,
    winner,
    within,
    write_candidates,
)
from models.report.pictures import draw_front

pytestmark = pytest.mark.torch


def by_width(design: Design) -> float:
    """An accuracy that costs no training: the wider the better."""
    return min(0.99, sum(stage.channels for stage in design.stages) / 600)


def by_macs(design: Design) -> float:
    """A latency that costs no measurement."""
    return macs_of(design) / 1e8


def test_it_resumes_after_being_cut_off_and_draws_its_front(tmp_path: Path) -> None:
    judged: list[Design] = []

    def cut_off(design: Design) -> float:
        if len(judged) == 2:
            raise KeyboardInterrupt
        judged.append(design)
        return by_width(design)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, 4, cut_off, say=lambda _line: None, measure_p50_ms=by_macs)
    assert len(found(tmp_path)) == 2
    lines: list[str] = []
    candidates = search(tmp_path, 4, by_width, say=lines.append, measure_p50_ms=by_macs)
    assert len(candidates) == 4
    assert len(lines) == 2
    assert [c.design for c in candidates][:2] == judged
    assert all(0 < c.macs <= BUDGET and c.p50_ms > 0 for c in candidates)
    best = [c for c in candidates if c.best]
    assert best
    for one in best:
        assert not any(o.accuracy > one.accuracy and o.p50_ms < one.p50_ms for o in candidates)
    assert search(tmp_path, 4, cut_off, say=lines.append) == candidates

    draw_front(candidates, tmp_path / "front.svg")
    text = (tmp_path / "front.svg").read_text()
    assert text.startswith("<?xml")
    assert str(tmp_path) not in text
    write_candidates(candidates, tmp_path / "all.json")
    entries = json.loads((tmp_path / "all.json").read_text())
    assert [Design.model_validate(entry["design"]) for entry in entries] == [
        c.design for c in sorted(candidates, key=lambda c: c.p50_ms)
    ]


def test_candidates_of_another_training_are_not_added(tmp_path: Path) -> None:
    (candidate,) = search(tmp_path, 1, by_width, "3 epochs", say=lambda _line: None)
    assert candidate.p50_ms > 0
    with pytest.raises(ValueError, match="judges by 3 epochs, not by 4 epochs; give another --runs"):
        search(tmp_path, 1, by_width, "4 epochs", say=lambda _line: None)


def test_latency_is_measured_and_macs_are_counted() -> None:
    small, large = design_of("fashion-depthwise-separable"), design_of("fashion-standard-equal-width")
    assert macs_of(small) < BUDGET < macs_of(large)
    assert 0.005 < p50_ms(small, runs=30) < p50_ms(large, runs=30)


def test_a_design_over_the_budget_is_made_narrower_and_no_more_than_it_must() -> None:
    small, large = design_of("fashion-depthwise-separable"), design_of("fashion-standard-equal-width")
    assert within(small, BUDGET) == small
    narrowed = within(large, BUDGET)
    assert 0.8 * BUDGET < macs_of(narrowed) <= BUDGET
    assert [stage.repeats for stage in narrowed.stages] == [stage.repeats for stage in large.stages]
    assert within(large.model_copy(update={"head": 128}), BUDGET).head == 128
    with pytest.raises(OverBudgetError, match="not within 1000 multiply-accumulates at any width"):
        within(large, 1000)


def test_grouped_channels_become_the_nearest_that_the_groups_divide() -> None:
    stages = (Stage(block="grouped", channels=48, repeats=2), Stage(block="grouped", channels=112, repeats=1))
    with pytest.raises(ValueError, match="3 groups"):
        macs_of(Design(stem=16, stages=stages))
    built = within(Design(stem=16, stages=stages), BUDGET)
    assert [stage.channels for stage in built.stages] == [48, 96]


def test_whatever_is_suggested_can_be_built_within_the_budget() -> None:
    blocks = set()
    for seed in range(30):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
        design = within(suggest(study.ask()), BUDGET)
        assert 0 < macs_of(design) <= BUDGET
        assert (design.stages[0].ratio is not None) == (design.block() in WIDENING + NARROWING)
        blocks.add(design.block())
    assert blocks == set(BLOCKS)


def test_a_design_that_comes_again_is_not_trained_again(tmp_path: Path) -> None:
    judged: list[Design] = []

    def judge(design: Design) -> float:
        judged.append(design)
        return by_width(design)

    search(tmp_path, 2, judge, say=lambda _line: None, measure_p50_ms=by_macs)
    study = optuna.load_study(study_name=STUDY, storage=f"sqlite:///{tmp_path / STORAGE}")
    study.enqueue_trial(study.trials[0].params)
    candidates = search(tmp_path, 3, judge, say=lambda _line: None, measure_p50_ms=by_macs)
    again = study.trials[2]
    assert again.user_attrs["same_as"] == 0
    assert again.values == study.trials[0].values
    assert 2 not in [candidate.number for candidate in candidates]
    assert judged == [candidate.design for candidate in candidates]


def test_the_winner_is_the_most_accurate_of_those_that_are_fast_enough() -> None:
    design = design_of("fashion-ghost")
    assert eval(repr(design), {"Design": Design, "Stage": Stage}) == design  # what `search` prints to paste
    accuracies_and_times = [(0.95, 9.0), (0.93, 5.0), (0.93, 4.0), (0.92, 1.0)]
    candidates = [
        Candidate(number, design, accuracy, p50, 1, True)
        for number, (accuracy, p50) in enumerate(accuracies_and_times)
    ]
    assert winner(candidates, 5.0).number == 2
    with pytest.raises(ValueError, match=r"none of 4 candidates takes at most 0\.500 ms"):
        winner(candidates, 0.5)


def test_no_search_is_said() -> None:
    with pytest.raises(FileNotFoundError, match="no search in nowhere"):
        found(Path("nowhere"))
    with pytest.raises(ValueError, match="no candidates"):
        draw_front([], Path("front.svg"))
