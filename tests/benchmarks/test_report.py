"""Verdicts on figures by their median, the table, and failures of single parts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def report() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "report.py"
    spec = importlib.util.spec_from_file_location("benchmarks_report", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmarks_report"] = module
    spec.loader.exec_module(module)
    return module


def test_verdict_by_the_median(report: ModuleType) -> None:
    assert report.figure("a", "ms", [1, 2, 9], 2).met is True
    assert report.figure("a", "ms", [1, 3, 9], 2).met is False
    assert report.figure("a", "ms", [1, 2, 9], 2, at_least=True).met is True
    assert report.figure("a", "ms", [1, 1.9, 9], 2, at_least=True).met is False
    assert report.figure("a", "ms", [1, 2, 9]).met is None


def test_table(report: ModuleType) -> None:
    lines = report.table(
        [report.figure("ratio", "×", [1.1, 1.3, 1.2], 1.15), report.figure("memory", "MB", [400], 450)]
    ).splitlines()
    assert lines[1].split() == ["ratio", "1.200", "×", "(1.100", "to", "1.300,", "3)", "≤", "1.150", "MISSED"]
    assert lines[2].split() == ["memory", "400", "MB", "≤", "450", "met"]


def test_failure_of_one_part(report: ModuleType) -> None:
    def fails() -> None:
        raise RuntimeError("no such luck")

    assert report.guarded("memory", fails) == ([], "memory: RuntimeError: no such luck")
    figures, failure = report.guarded("memory", lambda: [report.figure("a", "ms", [1])])
    assert (len(figures), failure) == (1, None)


def test_description_of_the_machine(report: ModuleType) -> None:
    machine = report.machine()
    assert machine["cores"] >= 1
    assert machine["cpu"]
    assert "onnxruntime" in machine["versions"]
