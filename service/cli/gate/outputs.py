"""Outputs of a gate for CI: JUnit XML, and a Markdown table for the summary of a job."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from models.zoo.display import in_markdown, shown
from service.cli.gate.result import Check, GateResult, Status, nothing_asked

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 forbids, even as a reference: https://www.w3.org/TR/xml/#charsets."""
_MARKS: dict[Status, str] = {"passed": "✅", "failed": "❌", "undecided": "❔", "skipped": "➖"}
_MARKS_OF_OUTCOMES = {"pass": "✅", "fail": "❌", "undecided": "❔"}


def to_junit(result: GateResult) -> str:
    """Return JUnit XML with one suite, and a test case for each check.

    A check that failed is a failure. An undecided check is an error, so that it does not count as passed. If
    no check is undecided but the outcome is, an additional test case `outcome` has the error.
    """
    cases = [(str(check.name), check.status, check.sentence) for check in result.checks]
    if result.outcome == "undecided" and not any(status == "undecided" for _, status, _ in cases):
        cases.append(("outcome", "undecided", result.sentence))
    statuses = [status for _, status, _ in cases]
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
    for name, status, sentence in cases:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "weighin.gate", "name": name})
        text = _NO_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", shown(sentence))
        if status == "passed":
            ElementTree.SubElement(case, "system-out").text = text
        elif status == "skipped":
            ElementTree.SubElement(case, "skipped", {"message": text})
        else:
            element = "failure" if status == "failed" else "error"
            ElementTree.SubElement(case, element, {"message": text, "type": status})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def to_markdown(result: GateResult) -> str:
    """Return the result in GitHub's Markdown: the outcome, a row for each check, and the notes."""
    return "\n".join(_markdown(result)) + "\n"


def _markdown(result: GateResult) -> Iterator[str]:
    nothing = nothing_asked(result)
    mark = _MARKS["skipped"] if nothing else _MARKS_OF_OUTCOMES[result.outcome]
    yield f"### weighin gate: {mark} {result.sentence.partition(': ')[0]}"
    yield ""
    yield in_markdown(result.sentence)
    yield ""
    if not nothing:
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
    """Append the whole text to a file, or nothing of it. Create the file if it is missing.

    The path may also be a device or a pipe. If writing to a regular file fails, the file is cut back to the
    length that it had before. Raises OSError if the text cannot be written.
    """
    # O_NONBLOCK: a pipe without a reader is an error; otherwise the call would wait for a reader
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    try:
        os.set_blocking(descriptor, True)
        status = os.fstat(descriptor)
        try:
            _write_all(descriptor, text.encode())
        except OSError:
            if stat.S_ISREG(status.st_mode):
                with contextlib.suppress(OSError):  # the first error is raised
                    os.ftruncate(descriptor, status.st_size)
            raise
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, rest: bytes) -> None:
    """Write bytes and sync them, except on devices and pipes, which cannot be synced."""
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):  # a device or a pipe
            raise
