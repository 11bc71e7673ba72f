"""Plans: what they hold, and everything that is refused before anything runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from service.bench.measure.plan import PROFILES, Plan, Request, make_plan
from service.errors import InvalidParameter, ModelUnavailable, UnknownModel
from service.inference.registry import Registry
from service.inference.runtimes import opening
from tests.conftest import make_tiny_model
from tests.helpers.networks import save_network


def test_default_plan(registry: Registry) -> None:
    plan = make_plan(registry, Request())
    assert [entry.name for entry in plan.entries] == ["tiny", "tiny#again", "tiny-b"]
    assert [entry.control for entry in plan.entries] == [False, True, False]
    assert plan.configuration.baseline == "tiny"
    assert (plan.configuration.launches, plan.configuration.rounds) == (3, 6)
    assert plan.configuration.inputs.kind == "synthetic"


def test_runs_of_profiles() -> None:
    runs = {name: each.launches * each.rounds * each.block_runs for name, each in PROFILES.items()}
    assert runs["quick"] < 662 <= runs["standard"]
    assert runs["publish"] >= 1024
    publish = PROFILES["publish"]
    assert publish.launches * publish.rounds * publish.block_s >= 60


def test_launches_rounds_and_runs_replace_the_profiles(registry: Registry) -> None:
    asked = make_plan(registry, Request(profile="publish", launches=2, rounds=3, runs=5)).configuration
    assert (asked.launches, asked.rounds, asked.block_runs, asked.block_s) == (2, 3, 5, 0.0)
    asked = make_plan(registry, Request(profile="publish", rounds=3)).configuration
    publish = PROFILES["publish"]
    assert (asked.launches, asked.rounds) == (publish.launches, 3)
    assert (asked.block_runs, asked.block_s) == (publish.block_runs, publish.block_s)


def test_random_order_with_a_seed(registry: Registry) -> None:
    plan = make_plan(registry, Request(profile="publish", seed=5))
    names = {"tiny", "tiny#again", "tiny-b"}
    rounds = [order for launch in plan.orders for order in launch]
    assert len(rounds) == 200
    assert all(set(order) == names and len(order) == 3 for order in rounds)
    assert len(set(rounds)) == 6  # all orders of three occur
    assert make_plan(registry, Request(profile="publish", seed=5)).orders == plan.orders
    assert make_plan(registry, Request(profile="publish", seed=6)).orders != plan.orders


def test_runtimes_and_threads_are_entries_of_the_same_run(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(opening, "openvino_version", lambda: "2026.4")
    request = Request(models=("tiny",), runtimes=("onnxruntime", "openvino"), threads=(1, 2))
    assert [entry.name for entry in make_plan(registry, request).entries] == [
        "tiny",
        "tiny#again",
        "tiny@2-threads",
        "tiny@openvino",
        "tiny@openvino@2-threads",
    ]


def test_missing_runtime(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InvalidParameter, match=r"'openvino': not installed \(install it with: .*pip install"):
        make_plan(registry, Request(runtimes=("openvino",)))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"scenario": "multi-stream"},
            "scenario 'multi-stream': unknown (allowed: single-stream, offline, server)",
        ),
        ({"profile": "long"}, "profile 'long': unknown (allowed: quick, standard, publish)"),
        ({"runtimes": ("tflite",)}, "runtime 'tflite': unknown (allowed: onnxruntime, openvino)"),
        ({"scenario": "server"}, "budget_ms: missing"),
        ({"scenario": "server", "budget_ms": 0.0}, "budget_ms 0: out of range (allowed: above 0"),
        ({"budget_ms": -1.0}, "budget_ms -1: out of range"),
        ({"budget_ms": float("nan")}, "budget_ms nan: out of range"),
        ({"threads": (0,)}, "threads 0: out of range (allowed: 1 to 256)"),
        ({"threads": (1, 1)}, "threads: 1 more than once"),
        ({"models": ()}, "models: empty"),
        ({"models": ("tiny", "tiny")}, "models: tiny more than once"),
        ({"models": ("tiny",), "baseline": "tiny-b"}, "baseline 'tiny-b': not measured (allowed: tiny"),
        ({"url": "http:/localhost"}, "'http:/localhost': not a service URL (example: "),
    ],
)
def test_invalid_requests(registry: Registry, fields: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidParameter, match=re.escape(words)):
        make_plan(registry, Request(**fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["localhost:8000", "http://localhost:8000/", " http://localhost:8000\n"])
def test_spellings_of_the_service_url(registry: Registry, url: str) -> None:
    assert make_plan(registry, Request(url=url)).url == "http://localhost:8000"


@pytest.mark.parametrize("fields", [{"models": ("resnet",)}, {"baseline": "resnet"}])
def test_unknown_models(registry: Registry, fields: dict[str, object]) -> None:
    with pytest.raises(UnknownModel, match=r"model 'resnet': unknown \(allowed: tiny, tiny-b\)"):
        make_plan(registry, Request(**fields))  # type: ignore[arg-type]


def test_broken_model_is_skipped_unless_named(tmp_path: Path) -> None:
    make_tiny_model(tmp_path, "tiny")
    (make_tiny_model(tmp_path, "other") / "model.onnx").write_bytes(b"no model")
    registry = Registry([tmp_path], "tiny")
    assert [model.name for model in make_plan(registry, Request()).models] == ["tiny"]
    with pytest.raises(ModelUnavailable, match="other"):
        make_plan(registry, Request(models=("other",)))


def test_photos_are_tried_before_anything_runs(
    short_plan: Callable[..., Plan], tmp_path: Path, cat_jpeg: bytes
) -> None:
    good, bad = tmp_path / "cat.jpg", tmp_path / "text.jpg"
    good.write_bytes(cat_jpeg)
    bad.write_text("no picture")
    plan = short_plan(photos=(good,))
    assert plan.stages
    assert (plan.configuration.inputs.kind, plan.configuration.inputs.count) == ("photos", 1)
    with pytest.raises(InvalidParameter, match=r"input text\.jpg: cannot be used: image: unknown type"):
        short_plan(photos=(good, bad))
    with pytest.raises(InvalidParameter, match=r"input gone\.jpg: cannot be read: no such file"):
        short_plan(photos=(tmp_path / "gone.jpg",))


def test_plan_with_a_broken_default_model(tmp_path: Path) -> None:
    make_tiny_model(tmp_path, "a")
    make_tiny_model(tmp_path, "default")
    save_network(tmp_path, "fixed-batch", batch=8, labels="tiny-10")
    (tmp_path / "default/model.onnx").unlink()
    registry = Registry([tmp_path], "default")
    registry.load()
    plan = make_plan(registry, Request())
    assert {entry.model for entry in plan.entries} == {"a"}
    assert plan.configuration.baseline == "a"


def test_plan_without_usable_models(tmp_path: Path) -> None:
    (make_tiny_model(tmp_path, "default") / "model.onnx").unlink()
    with pytest.raises(ModelUnavailable, match=r"'default' cannot be used: its file model.onnx is missing"):
        make_plan(Registry([tmp_path], "default"), Request())
