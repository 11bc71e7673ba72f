"""The table of a bundle: what it withholds."""

from __future__ import annotations

import io
import re

import pytest

from service.bench.bundle import BenchStage, Bundle
from service.cli.bench.table import print_bundle
from service.cli.output import LiteralConsole
from service.inference.runtimes.base import RuntimeName
from tests.service.bench.bundles import bundle


def printed(made: Bundle) -> str:
    out = io.StringIO()
    print_bundle(LiteralConsole(file=out, width=300), made)
    return out.getvalue()


def test_no_verdict_and_no_interval_of_few_rounds() -> None:
    few = printed(bundle({"a": [[[2000]] * 3] * 2, "b": [[[1000]] * 3] * 2}))
    assert re.search(r"2\.00x +indistinguishable", few)
    assert "rounds: 6, too few for a verdict and an interval (needed: 7)" in few
    enough = printed(bundle({"a": [[[2000]] * 4] * 2, "b": [[[1000]] * 4] * 2}))
    assert re.search(r"2\.00x \[2\.00, 2\.00\] +faster", enough)
    assert "too few for a verdict" not in enough


@pytest.mark.parametrize(("runtime", "session_ms"), [("onnxruntime", "4.000"), ("openvino", "3.000")])
def test_overhead_is_that_over_a_session_in_the_runtime_of_the_service(
    runtime: RuntimeName, session_ms: str
) -> None:
    """One model: 4 ms in ONNX Runtime, 3 ms in OpenVINO, 5 ms over HTTP."""
    rounds = [[[1_000_000]] * 4] * 2
    made = bundle({"a": rounds, "b": rounds, "c": rounds})
    entries = (
        made.entry("a"),
        made.entry("b").model_copy(update={"model": "a", "runtime": "openvino"}),
        made.entry("c").model_copy(update={"model": "a", "runtime": runtime, "via": "http"}),
    )
    totals: dict[str, dict[BenchStage, int]] = {
        "a": {"total": 4_000_000},
        "b": {"total": 3_000_000},
        "c": {"total": 4_500_000, "round_trip": 5_000_000},
    }
    blocks = tuple(
        block.model_copy(
            update={
                "durations_ns": {
                    "inference": (1_000_000,),
                    **{stage: (duration,) for stage, duration in totals[block.entry].items()},
                }
            }
        )
        for block in made.blocks
    )
    text = printed(made.model_copy(update={"entries": entries, "blocks": blocks}))
    assert f"c: 5.000 ms = {session_ms} bare session" in text
