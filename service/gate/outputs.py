"""Outputs of a gate for CI: JUnit XML, a Markdown table, and appending that to the summary of a job."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from service.gate.result import Check, GateResult, Status
from service.text.display import in_markdown, shown

_MARKS: dict[Status, str] = {"passed": "✅", "failed": "❌", "undecided": "❔", "skipped": "➖"}
_OUTCOMES = {"pass": "✅ pass", "fail": "❌ fail", "undecided": "❔ cannot say"}


def to_junit(result: GateResult) -> str:
    """Return JUnit XML with one suite, and a test case for each check.

    A broken limit is a failure, an undecided check an error: neither counts as passed.
    """
    statuses = [check.status for check in result.checks]
    counts = {
        "name": "weighin gate",
        "tests": str(len(statuses)),
        "failures": str(statuses.count("failed")),
        "errors": str(statuses.count("undecided")),
        "time": f"{result.seconds:.3f}",
    }
    root = ElementTree.Element("testsuites", counts)
    more = {
        "skipped": str(statuses.count("skipped")),
        "timestamp": f"{result.started_at:%Y-%m-%dT%H:%M:%S}",
    }
    suite = ElementTree.SubElement(root, "testsuite", counts | more)
    for check in result.checks:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "weighin.gate", "name": check.name})
        sentence = shown(check.sentence)
        if check.status == "passed":
            ElementTree.SubElement(case, "system-out").text = sentence
        elif check.status == "skipped":
            ElementTree.SubElement(case, "skipped", {"message": sentence})
        else:
            element = "failure" if check.status == "failed" else "error"
            ElementTree.SubElement(case, element, {"message": sentence, "type": check.status})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def to_markdown(result: GateResult) -> str:
    """Return the result in GitHub's Markdown: the outcome, a row for each check, and what is assumed."""
    return "\n".join(_markdown(result)) + "\n"


def _markdown(result: GateResult) -> Iterator[str]:
    yield f"### weighin gate: {_OUTCOMES[result.outcome]}"
    yield ""
    yield in_markdown(result.sentence)
    yield ""
    yield "| check | | result |"
    yield "| --- | --- | --- |"
    yield from (_row(check) for check in result.checks)
    yield ""
    for role, model in (("base", result.base), ("new", result.new)):
        if model is not None:
            sha256 = "" if model.sha256 is None else f", SHA-256 `{model.sha256[:12]}`"
            yield f"- {role}: {in_markdown(model.given)} ({model.kind}{sha256})"
            yield from (f"  - {in_markdown(note)}" for note in model.notes)
    yield from (f"- {in_markdown(note)}" for note in result.notes)
    yield f"- {in_markdown(result.machine)}, {result.seconds:.0f} s, weighin {result.weighin}"


def _row(check: Check) -> str:
    return f"| {check.name} | {_MARKS[check.status]} | {in_markdown(check.sentence)} |"


def append_whole(path: Path, text: str) -> None:
    """Append text to a file, whole or not at all; the file is created if it is missing.

    Raises OSError if it cannot be written; the file then has its earlier length.
    """
    with path.open("ab", buffering=0) as file:  # a buffer would write the rest when it is closed
        length = file.seek(0, os.SEEK_END)
        rest = text.encode()
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), length)
            raise
