"""Rounds in changing order, summarised; machines and what disturbs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

from models.cost.latency import WARM_UP_RUNS, interleaved, measure, order, summarised
from models.zoo.machine import Disturbance, Watch, this_machine

pytestmark = pytest.mark.torch


def product(size: int) -> bytes:
    """A model that multiplies (1, size) by a matrix."""
    helper = onnx.helper
    weight = onnx.numpy_helper.from_array(np.ones((size, size), dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, size])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, size])],
        [weight],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    ).SerializeToString()


def test_every_round_has_an_order_of_its_own_that_can_be_had_again() -> None:
    names = [f"m{index}" for index in range(12)]
    orders = [order(names, 3, number) for number in range(5)]
    assert all(sorted(one) == sorted(names) for one in orders)
    assert len({tuple(one) for one in orders}) == 5
    assert orders == [order(names, 3, number) for number in range(5)]
    assert order(names, 4, 0) != orders[0]


def test_a_larger_model_takes_longer() -> None:
    image = {size: np.zeros((1, size), dtype=np.float32) for size in (16, 2048)}
    found = interleaved({str(size): (product(size), image[size]) for size in image}, rounds=3, runs=20)
    assert found["2048"].p50_ms > 3 * found["16"].p50_ms > 0
    for latency in found.values():
        assert (latency.rounds, latency.runs) == (3, 60)
        assert latency.low_ms <= latency.p50_ms <= latency.high_ms


def test_only_the_asked_runs_are_recorded() -> None:
    durations = measure(product(16), np.zeros((1, 16), dtype=np.float32), runs=7)
    assert len(durations) == 7 < WARM_UP_RUNS
    assert min(durations) > 0


def test_a_rounds_outlier_does_not_move_its_median() -> None:
    found = summarised([[1_000_000, 1_100_000, 90_000_000], [2_000_000] * 3, [3_000_000] * 3])
    assert (found.p50_ms, found.low_ms, found.high_ms, found.rounds, found.runs) == (2.0, 1.1, 3.0, 3, 9)


def test_nothing_measured_is_an_error() -> None:
    for rounds in ([], [[]], [[1], []]):
        with pytest.raises(ValueError, match="no measured runs"):
            summarised(rounds)
    with pytest.raises(ValueError, match="0 rounds of 5 runs measure nothing"):
        interleaved({}, rounds=0, runs=5)


def test_the_machine_is_named_by_its_cpuinfo(tmp_path: Path) -> None:
    (tmp_path / "x86").write_text(
        "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu avx2 avx512_vnni\n\nprocessor\t: 1\n"
        "model name\t: A CPU\nflags\t\t: fpu avx2 avx512_vnni\n"
    )
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    x86, arm = this_machine(tmp_path / "x86"), this_machine(tmp_path / "arm")
    assert (x86.cpu, x86.instruction_set) == ("A CPU", ("avx2", "avx512_vnni"))
    assert arm.instruction_set == ("asimd", "asimddp")
    assert arm.cpu
    assert x86.cores >= 1
    assert this_machine(tmp_path / "missing").instruction_set == ()


def test_time_that_others_took_is_seen(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  1000 0 0 9000 0 0 0 0 0 0\n")
    watch = Watch(stat)
    assert watch.seen() is None
    # 100 s of both cores went by: 25 s to other processes, 5 s to other machines.
    stat.write_text("cpu  3500 0 0 16000 0 0 0 500 0 0\n")
    seen = watch.seen()
    assert seen is not None
    assert seen.steal == pytest.approx(0.05)
    assert seen.others == pytest.approx(0.25, abs=0.01)
    assert seen.dirty
    assert not Disturbance(steal=0.0, others=0.1).dirty
    assert Watch(tmp_path / "missing").seen() is None
