"""JUnit XML, Markdown and the summary of a job: every outcome, hostile text, a full disk."""

from __future__ import annotations

import os
import resource
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest

from service.cli.gate.decision import Limits, judge_accuracy, judge_latency
from service.cli.gate.outputs import append_whole, to_junit, to_markdown
from service.cli.gate.result import (
    EXIT_CODES,
    AccuracyFigures,
    Check,
    GatedModel,
    GateLimits,
    GateResult,
    LatencyFigures,
    accuracy_check,
    conclude,
    latency_checks,
    unreported,
)
from tests.service.cli.gate.answers import answers

ALLOWED = {
    "testsuites": {"name", "time", "tests", "failures", "disabled", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "time", "skipped", "timestamp", "hostname", "id"},
    "testcase": {"name", "classname", "time"},
    "failure": {"message", "type"},
    "error": {"message", "type"},
    "skipped": {"message", "type"},
    "system-out": set(),
}
"""Attributes of each element in the schema that Jenkins, GitLab and GitHub actions read."""
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"testcase"},
    "testcase": {"failure", "error", "skipped", "system-out"},
}


def result(slowdowns: tuple[float, ...], right_only_in_base: int, *, noise: float = 1e-4) -> GateResult:
    """Result of a gate whose launches were slower by these shares, on 1000 pictures."""
    limits = Limits()
    control = {launch: [noise * (-1) ** launch] for launch in range(len(slowdowns))}
    latency = judge_latency(
        {launch: [value] for launch, value in enumerate(slowdowns)}, control, limits.max_slower
    )
    accuracy = judge_accuracy(*answers(1000, right_only_in_base, 0), limits.max_loss)
    checks = [*latency_checks(latency, 3.5, 3.6, limits, "all 16 launches were made", 2.0)]
    checks.insert(1, accuracy_check(accuracy, 0.9, 0.89, 1001, limits))
    outcome, sentence = conclude(checks)
    model = GatedModel(given="a|b<script>.onnx", kind="file", sha256="0" * 64, bytes=1, notes=["as_sumed"])
    return GateResult(
        outcome=outcome,
        exit_code=EXIT_CODES[outcome],
        sentence=sentence,
        checks=checks,
        limits=GateLimits(max_slower=0.03, max_loss=0.005, time_limit_s=300),
        base=model,
        new=model,
        latency=LatencyFigures.of(latency, 3.5, 3.6),
        accuracy=AccuracyFigures.of("pets", 1001, 0.9, 0.89, accuracy),
        notes=[],
        machine="CPU",
        weighin="1",
        started_at=datetime(2026, 1, 2, tzinfo=UTC),
        seconds=12.3456,
    )


PASSES = result((0.0, 0.001, 0.002), 0)
FAILS = result((0.08, 0.081, 0.082), 50)
CANNOT_SAY = result((0.0, 0.03, 0.06), 5)


@pytest.mark.parametrize(("given", "failures", "errors"), [(PASSES, 0, 0), (FAILS, 2, 0), (CANNOT_SAY, 0, 2)])
def test_junit_has_the_shape_of_its_schema(given: GateResult, failures: int, errors: int) -> None:
    root = ElementTree.fromstring(to_junit(given))
    for element in root.iter():
        assert set(element.attrib) <= ALLOWED[element.tag]
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
    (suite,) = root
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == (
        "3",
        str(failures),
        str(errors),
    )
    assert len(root.findall(".//failure")) == failures
    assert len(root.findall(".//error")) == errors
    assert suite.get("timestamp") == "2026-01-02T00:00:00"
    assert [case.get("name") for case in suite] == [check.name for check in given.checks]


def test_junit_quotes_markup_and_control_characters() -> None:
    check = Check(name="latency", status="undecided", sentence='<a href="x">\x1b[31m & \x00')
    given = PASSES.model_copy(update={"checks": [check, *PASSES.checks[1:]]})
    error = ElementTree.fromstring(to_junit(given)).find(".//error")
    assert error is not None
    assert error.get("message") == r'<a href="x">\x1b[31m & \x00'


def test_junit_has_no_character_that_xml_forbids() -> None:
    check = Check(name="latency", status="skipped", sentence="\ufffe\uffff \U0001f600\U0001ffff")
    given = PASSES.model_copy(update={"checks": [check, *PASSES.checks[1:]]})
    skipped = ElementTree.fromstring(to_junit(given)).find(".//skipped")
    assert skipped is not None
    assert skipped.get("message") == "\\ufffe\\uffff \U0001f600\U0001ffff"


def test_junit_of_a_pass_that_is_not_reported_has_an_error() -> None:
    root = ElementTree.fromstring(to_junit(unreported(PASSES)))
    assert (root.get("tests"), root.get("errors")) == ("4", "1")
    assert [case.get("name") for case in root.findall(".//error/..")] == ["outcome"]


@pytest.mark.parametrize("launches", [1, 2])
def test_control_of_too_few_launches_is_undecided(launches: int) -> None:
    given = result((0.0,) * launches, 0)
    assert [(check.name, check.status) for check in given.checks] == [
        ("latency", "undecided"),
        ("accuracy", "passed"),
        ("control", "undecided"),
    ]
    assert given.checks[2].sentence.endswith("too few for an interval")


def test_sentences_of_a_pass() -> None:
    assert PASSES.sentence == (
        "pass: latency +0.1% [-0.5%, +0.7%] in 3 launches, wholly within the limit of +3% "
        "(base 3.5 ms, new 3.6 ms); "
        "accuracy loss +0.00 points [-0.38, +0.38] on 1000 of 1001 pictures "
        "(base 90.00%, new 89.00%; 0 right in base only, 0 in new only), "
        "wholly within the limit of 0.5 points"
    )


def test_sentences_of_a_failure_name_what_failed() -> None:
    assert FAILS.outcome == "fail"
    assert FAILS.sentence.startswith("fail: latency +8.4% [")
    assert "wholly beyond the limit of +3%" in FAILS.sentence
    assert "accuracy loss +5.00 points" in FAILS.sentence


def test_sentences_of_cannot_say_name_what_it_would_take() -> None:
    assert CANNOT_SAY.exit_code == 2
    assert CANNOT_SAY.sentence.startswith("cannot say: latency +3.0% [")
    limit = "on both sides of the limit of +3% (base 3.5 ms, new 3.6 ms)"
    assert f"{limit}; all 16 launches were made; the slowdown is within" in CANNOT_SAY.sentence
    assert "on both sides of the limit of 0.5 points; the loss is within" in CANNOT_SAY.sentence


def test_void_control_says_so() -> None:
    judgement = judge_latency(
        {0: [0.2], 1: [0.2], 2: [0.2]}, {0: [0.05], 1: [0.0501], 2: [0.0502]}, Limits().max_slower
    )
    checks = latency_checks(judgement, 3.5, 3.6, Limits(), "", 1.0)
    outcome, sentence = conclude(checks)
    assert outcome == "undecided"
    assert "control the base measured twice differs from itself by +5.1%" in sentence
    assert [check.status for check in checks] == ["undecided", "undecided"]


def test_markdown_has_a_row_for_each_check_and_shows_names_as_they_are() -> None:
    text = to_markdown(FAILS)
    assert text.startswith("### weighin gate: ❌ fail\n")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| latency", "| accuracy", "| control"]
    assert r"- base: a\|b&lt;script&gt;.onnx (file, SHA-256 `000000000000`)" in text
    assert r"  - as\_sumed" in text


def test_append_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    append_whole(path, "one\n")
    append_whole(path, "zwei ü\n")
    assert path.read_text() == "one\nzwei ü\n"


def test_append_to_a_device() -> None:
    append_whole(Path(os.devnull), "gone")


def test_append_to_a_pipe_that_nobody_reads(tmp_path: Path) -> None:
    """It does not wait for a reader."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device or address"):
        append_whole(tmp_path / "pipe", "gone")


def test_append_on_a_full_disk_leaves_no_part(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: it cuts the write off in the middle."""
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            append_whole(path, "x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "before\n"
