"""Two bundles of one machine: slowdowns are found, and what cannot be compared is refused or labelled."""

from __future__ import annotations

import numpy as np
import pytest

from service.bench.bundle import Bundle, Flag
from service.bench.judge.regression import compare_bundles
from service.errors import InvalidBundle, InvalidParameter
from tests.service.bench.bundles import bundle, fingerprint


def run(seed: int, a: float = 1.0, b: float = 2.0, **fields: object) -> Bundle:
    """Entries `a` and `b` of that many milliseconds, in 5 launches of 10 rounds."""
    random = np.random.default_rng(seed)
    samples = {
        name: [
            [[int(1e6 * factor * x) for x in random.normal(1, 0.02, 32)] for _ in range(10)] for _ in range(5)
        ]
        for name, factor in (("a", a), ("b", b))
    }
    return bundle(samples, **fields)  # type: ignore[arg-type]


def test_regression_beyond_the_threshold() -> None:
    same = compare_bundles(run(1), run(2))
    assert not same.regressed
    assert {change.verdict for change in same.changes} == {"indistinguishable"}
    slower = compare_bundles(run(1), run(2, b=2.2))
    assert slower.regressed
    change = {each.entry: each for each in slower.changes}["b"]
    assert change.low < 1.1 < change.high
    assert not compare_bundles(run(1), run(2, b=2.2), threshold=0.2).regressed
    assert not compare_bundles(run(1), run(2, b=1.8)).regressed


def test_bundles_of_different_machines() -> None:
    there = run(2, on=fingerprint("Other CPU"))
    with pytest.raises(InvalidBundle, match=r"different machines \(cpu model: Test CPU, there Other CPU\)"):
        compare_bundles(run(1), there)
    labelled = compare_bundles(run(1), there, across_machines=True)
    assert labelled.labels[0].startswith("DIFFERENT MACHINES: cpu model")


def test_labels_for_software_and_flags() -> None:
    dirty = run(2, on=fingerprint(onnxruntime="1.33.0"), flags=[Flag(kind="dirty", reason="steal")])
    labels = compare_bundles(run(1), dirty).labels
    assert labels == ("other software: onnxruntime: 1.32.0, there 1.33.0", "the second is dirty (1): steal")


def test_label_for_fewer_runs() -> None:
    short = run(2)
    configuration = short.configuration.model_copy(update={"launches": 1, "block_runs": 5})
    labels = compare_bundles(run(1), short.model_copy(update={"configuration": configuration})).labels
    assert labels == (
        f"launches {short.configuration.launches}, then 1",
        f"block_runs {short.configuration.block_runs}, then 5",
    )


def test_too_few_rounds_for_a_regression() -> None:
    few = compare_bundles(bundle({"a": [[[1_000_000]] * 6]}), bundle({"a": [[[2_000_000]] * 7]}))
    assert few.changes[0].verdict == "indistinguishable"
    assert not few.regressed
    assert few.labels == (
        "rounds 6, then 7",
        "6 rounds: too few for a verdict and an interval (needed: 7 in each)",
    )
    enough = compare_bundles(bundle({"a": [[[1_000_000]] * 7]}), bundle({"a": [[[2_000_000]] * 7]}))
    assert enough.regressed
    assert enough.labels == ()


@pytest.mark.parametrize("kind", ["void", "partial"])
def test_void_and_partial_bundles(kind: str) -> None:
    spoilt = run(2).with_flag(Flag.model_validate({"kind": kind, "reason": "so it goes"}))
    with pytest.raises(InvalidBundle, match=f"second bundle: {kind}"):
        compare_bundles(run(1), spoilt)


def test_incomparable_bundles() -> None:
    other = run(2)
    inputs = other.configuration.inputs.model_copy(update={"count": 2})
    configuration = other.configuration.model_copy(update={"inputs": inputs})
    with pytest.raises(InvalidBundle, match="different inputs"):
        compare_bundles(run(1), other.model_copy(update={"configuration": configuration}))
    with pytest.raises(InvalidBundle, match=r"no common entries \(a, b; c\)"):
        compare_bundles(run(1), bundle({"c": [[[100]]]}))
    with pytest.raises(InvalidParameter, match="threshold -1: out of range"):
        compare_bundles(run(1), run(2), threshold=-1)


def test_missing_entry_and_changed_file() -> None:
    one = run(1)
    facts = tuple(model.model_copy(update={"sha256": "1" * 64}) for model in one.models)
    found = compare_bundles(one, bundle({"a": [[[1_000_000]] * 2] * 2}).model_copy(update={"models": facts}))
    assert found.only_then == ("b",)
    assert found.changes[0].other_file
