"""Whole measurements in real processes: complete, cancelled, failing, through a service; every scenario."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from models.zoo.preprocess import preprocess
from service.bench.bundle_file import from_json, to_json
from service.bench.judge.summary import recorder_samples, summarise
from service.bench.measure.inputs import natural_picture
from service.bench.measure.plan import Plan
from service.bench.measure.progress import Progress
from service.bench.measure.runner import Runner
from service.bench.measure.subjects import runtime_in_service
from service.bench.report.reproduce import bench_command
from service.errors import MeasurementFailed
from service.inference.registry import Registry
from service.inference.runtimes.opening import open_session
from service.settings import Settings
from tests.service.conftest import running

pytestmark = pytest.mark.fault  # whole measurements, seconds each


@pytest.fixture
def children() -> Callable[[], set[int]]:
    """Tells the processes whose parent this one is, but for those that were there before the test."""

    def alive() -> set[int]:
        found = set()
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                text = status.read_text()
            except OSError:
                continue
            if f"PPid:\t{os.getpid()}\n" in text:
                found.add(int(status.parent.name))
        return found

    before = alive()  # other tests' database server
    return lambda: alive() - before


def test_bundle_of_a_single_stream_run(
    short_plan: Callable[..., Plan], children: Callable[[], set[int]]
) -> None:
    plan = short_plan()
    seen: list[Progress] = []
    bundle = Runner(plan, seen.append).run()

    assert not children()
    assert from_json(to_json(bundle)) == bundle
    assert bundle.regime == "isolated"
    assert not bundle.flags_of("partial")
    for name in ("tiny", "tiny#again", "tiny-b"):
        assert len(bundle.samples(name)) == 2 * 2 * 32
        assert min(bundle.samples(name)) > 0
    # the order is the plan's
    for launch, rounds in enumerate(plan.orders):
        for number, order in enumerate(rounds):
            blocks = [b for b in bundle.blocks if (b.launch, b.round) == (launch, number)]
            assert tuple(block.entry for block in sorted(blocks, key=lambda b: b.position)) == order
    assert len(bundle.cold) == len(bundle.warm_ups) == 2 * 3
    assert all(cold.load_ns > 0 and cold.first_run_ns > 0 for cold in bundle.cold)
    assert {cold.precision for cold in bundle.cold} == {"fp32"}
    assert {memory.entry for memory in bundle.memory} == {"tiny", "tiny-b"}
    assert all(0 < memory.before_bytes <= memory.peak_bytes for memory in bundle.memory)
    assert [gate.when for gate in bundle.gates] == ["before", "during", "during", "after"]

    summaries = {summary.entry.name: summary for summary in summarise(bundle)}
    tiny = summaries["tiny-b"]
    assert tiny.count == 128
    assert tiny.p90 is not None
    assert tiny.p90.estimate_ns <= tiny.p90.bound_ns
    assert tiny.p99 is None
    assert tiny.comparison is not None
    assert tiny.comparison.rounds == 4
    assert tiny.gmacs_per_s is not None
    assert summaries["tiny"].comparison is None

    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert done[-1] > 0.9
    recorded = list(recorder_samples(bundle))
    assert {(model, regime) for model, regime, _ in recorded} == {
        ("tiny", "isolated"),
        ("tiny-b", "isolated"),
    }
    assert len(recorded) == 2 * 128  # the control is not counted over again


def test_photos_bring_the_stages_before_the_network(
    short_plan: Callable[..., Plan], tmp_path: Path, cat_jpeg: bytes, png: bytes
) -> None:
    photos = (tmp_path / "cat.jpg", tmp_path / "ramp.png")
    for photo, data in zip(photos, (cat_jpeg, png), strict=True):
        photo.write_bytes(data)
    bundle = Runner(short_plan(models=("tiny",), photos=photos)).run()
    for block in bundle.blocks:
        times = block.durations_ns
        assert list(times) == ["decode", "preprocess", "inference", "total"]
        for *parts, total in zip(*times.values(), strict=True):
            assert sum(parts) == total
    assert set(next(iter(recorder_samples(bundle)))[2]) == {"decode", "preprocess", "inference", "total"}


def test_offline_counts_images_on_all_cores(short_plan: Callable[..., Plan]) -> None:
    bundle = Runner(short_plan(scenario="offline")).run()
    assert bundle.regime == "load"
    assert all(block.images >= 32 * len(os.sched_getaffinity(0)) for block in bundle.blocks)
    for summary in summarise(bundle):
        assert summary.p50_ns is None
        assert summary.images_per_s is not None
        assert summary.images_per_s > 100
    assert list(recorder_samples(bundle)) == []


def test_server_finds_a_rate_that_keeps_the_budget(short_plan: Callable[..., Plan]) -> None:
    bundle = Runner(short_plan(models=("tiny",), scenario="server", budget_ms=500.0)).run()
    trials = [trial for trial in bundle.trials if trial.entry == "tiny"]
    assert [trial.rate_per_s for trial in trials[:2]] == sorted(trial.rate_per_s for trial in trials[:2])
    assert all(len(trial.latencies_ns) + trial.abandoned == 700 for trial in trials)
    summary = summarise(bundle)[0]
    assert summary.rate_per_s
    recorded = list(recorder_samples(bundle))
    assert {(model, regime) for model, regime, _ in recorded} == {("tiny", "load")}
    assert len(recorded) == 700


def test_budget_below_every_latency(short_plan: Callable[..., Plan]) -> None:
    bundle = Runner(short_plan(models=("tiny",), scenario="server", budget_ms=0.001)).run()
    assert summarise(bundle)[0].rate_per_s == 0
    assert list(recorder_samples(bundle)) == []


def test_overhead_of_a_service(short_plan: Callable[..., Plan], client: httpx.Client) -> None:
    bundle = Runner(short_plan(models=("tiny",), url=str(client.base_url))).run()
    summaries = {summary.entry.name: summary for summary in summarise(bundle)}
    http = summaries["tiny@http"]
    assert http.stage == "round_trip"
    assert (
        http.stages_p50_ns["round_trip"] > http.stages_p50_ns["total"] > http.stages_p50_ns["inference"] > 0
    )
    assert summaries["tiny"].stages_p50_ns["total"] > summaries["tiny"].stages_p50_ns["inference"]
    assert not any("other processes" in flag.reason for flag in bundle.flags_of("dirty"))


@pytest.mark.openvino
def test_runtime_of_a_service(short_plan: Callable[..., Plan], tiny_settings: Settings) -> None:
    """A service that runs the model in OpenVINO, measured beside a session of ONNX Runtime."""
    with running(tiny_settings.model_copy(update={"runtime": "openvino"})) as client:
        bundle = Runner(short_plan(models=("tiny",), url=str(client.base_url))).run()
    assert bundle.entry("tiny@http").runtime == "openvino"
    assert bundle.entry("tiny").runtime == "onnxruntime"
    assert set(bundle.fingerprint.software.runtimes) == {"onnxruntime"}
    assert "--runtime" not in bench_command(bundle)


def test_runtime_that_a_service_states(client: httpx.Client) -> None:
    url = str(client.base_url)
    assert runtime_in_service(url, "tiny") == "onnxruntime"
    with pytest.raises(MeasurementFailed, match="status 404: model 'resnet': unknown"):
        runtime_in_service(url, "resnet")
    with pytest.raises(MeasurementFailed, match="status 404"):
        runtime_in_service(f"{url}/nowhere", "tiny")


def test_unreachable_service(
    short_plan: Callable[..., Plan],
    children: Callable[[], set[int]],
) -> None:
    with pytest.raises(MeasurementFailed, match=r"service at 127\.0\.0\.1:9: no response"):
        Runner(short_plan(models=("tiny",), url="http://127.0.0.1:9")).run()
    assert not children()


def test_service_without_the_model(short_plan: Callable[..., Plan], client: httpx.Client) -> None:
    plan = short_plan(models=("tiny",), url=f"{client.base_url}/nowhere")
    with pytest.raises(MeasurementFailed, match="status 404"):
        Runner(plan).run()


def test_cancel_twice(short_plan: Callable[..., Plan], children: Callable[[], set[int]]) -> None:
    plan = short_plan()

    def cancel_in_the_second_launch(progress: Progress) -> None:
        if progress.launch == 2 and progress.round == 1:
            runner.cancel()
            runner.cancel()

    runner = Runner(plan, cancel_in_the_second_launch)
    bundle = runner.run()
    assert not children()
    (flag,) = bundle.flags_of("partial")
    assert flag.reason == "it was cancelled; 1 of 2 launches are complete"
    assert len([block for block in bundle.blocks if block.launch == 0]) == 6
    assert from_json(to_json(bundle)) == bundle
    assert summarise(bundle)


def test_keyboard_interrupt_leaves_a_partial_bundle(
    short_plan: Callable[..., Plan], children: Callable[[], set[int]]
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.launch == 1:
            raise KeyboardInterrupt

    bundle = Runner(short_plan(), interrupt).run()
    assert bundle.flags_of("partial")
    assert bundle.blocks == ()
    assert not children()


def test_killed_worker_leaves_a_partial_bundle(
    short_plan: Callable[..., Plan], children: Callable[[], set[int]]
) -> None:
    def kill(progress: Progress) -> None:
        if progress.round == 1:
            for pid in children():
                os.kill(pid, 9)

    # so many rounds that it cannot have ended before it is killed
    bundle = Runner(short_plan(rounds=1000), kill).run()
    (flag,) = bundle.flags_of("partial")
    assert "signal 9" in flag.reason
    assert bundle.blocks


def test_model_file_changed_during_the_benchmark(short_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan = short_plan(models=("tiny",))
    moved = [each.model_copy(update={"folder": str(tmp_path / "gone")}) for each in plan.worker_entries]
    with pytest.raises(MeasurementFailed, match="model 'gone' cannot be read any more"):
        Runner(replace(plan, worker_entries=tuple(moved))).run()


@pytest.mark.openvino
def test_openvino_is_a_second_runtime_of_the_same_run(
    short_plan: Callable[..., Plan], registry: Registry
) -> None:
    plan = short_plan(models=("tiny",), runtimes=("onnxruntime", "openvino"), threads=(1, 2))
    bundle = Runner(plan).run()
    summaries = {summary.entry.name: summary for summary in summarise(bundle)}
    assert set(summaries) == {
        "tiny",
        "tiny#again",
        "tiny@2-threads",
        "tiny@openvino",
        "tiny@openvino@2-threads",
    }
    assert all(summary.count == 128 for summary in summaries.values())
    assert set(bundle.fingerprint.software.runtimes) == {"onnxruntime", "openvino"}
    # only what is run as the service runs it is recorded beside the service's own
    assert len(list(recorder_samples(bundle))) == 128

    card, content = registry.content("tiny")
    tensor = preprocess(natural_picture(), card.input)
    runs = [open_session(name, content, card, floats="f32").run for name in ("onnxruntime", "openvino")]
    assert np.allclose(*(run(tensor)["logits"] for run in runs), atol=1e-4)


def test_one_core_is_enough(short_plan: Callable[..., Plan]) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        plan = short_plan(models=("tiny",), scenario="offline")
        bundle = Runner(plan).run()
    finally:
        os.sched_setaffinity(0, before)
    assert plan.cores == bundle.fingerprint.machine.cores == 1
    assert all(block.images == 32 for block in bundle.blocks)
