"""What Prometheus is shown."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.latency.prometheus import BUCKETS_S, Metrics


def scrape(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_durations_fall_into_buckets_in_seconds() -> None:
    metrics = Metrics({"version": "1"})
    for milliseconds in (0.4, 0.5, 0.6, 20_000):
        metrics.observe("tiny", "live", "inference", [round(milliseconds * 1e6)])
    shown = scrape(metrics)
    series = {"model": "tiny", "regime": "live", "stage": "inference"}
    name = "weighin_stage_duration_seconds"
    assert shown[key(f"{name}_bucket", le="0.0005", **series)] == 2
    assert shown[key(f"{name}_bucket", le="0.001", **series)] == 3
    assert shown[key(f"{name}_bucket", le="10.0", **series)] == 3
    assert shown[key(f"{name}_bucket", le="+Inf", **series)] == 4
    assert shown[key(f"{name}_count", **series)] == 4
    assert shown[key(f"{name}_sum", **series)] == pytest.approx(20.0015)
    assert min(BUCKETS_S) == 0.0005


def test_errors_are_counted_with_and_without_a_model() -> None:
    metrics = Metrics({})
    metrics.count_error("tiny", "queue-full")
    metrics.count_error("tiny", "queue-full")
    metrics.count_error(None, "unknown-model")
    shown = scrape(metrics)
    assert shown[key("weighin_errors_total", model="tiny", kind="queue-full")] == 2
    assert shown[key("weighin_errors_total", model="", kind="unknown-model")] == 1


def test_machine_is_named_beside_the_build() -> None:
    machine = {"machine": "Fast CPU, 8 cores", "cpu": "Fast CPU", "cores": "8"}
    shown = scrape(Metrics({"version": "1"}, machine=machine))
    assert shown[key("weighin_machine_info", **machine)] == 1
    assert shown[key("weighin_build_info", version="1")] == 1
    assert not any(name == "weighin_machine_info" for name, _ in scrape(Metrics({})))


def test_gauges_are_read_when_shown() -> None:
    metrics = Metrics({"version": "1.2", "onnxruntime": "1.32"})
    waiting = [0]
    metrics.watch(
        waiting=lambda: waiting[0],
        running=lambda: 2,
        models_loaded=lambda: 6,
        degraded=lambda: True,
        runtimes=lambda: [("tiny", "openvino", "bf16")],
    )
    waiting[0] = 7
    shown = scrape(metrics)
    assert shown[key("weighin_requests_waiting")] == 7
    assert shown[key("weighin_requests_running")] == 2
    assert shown[key("weighin_models_loaded")] == 6
    assert shown[key("weighin_state_degraded")] == 1
    assert shown[key("weighin_model_runtime_info", model="tiny", runtime="openvino", precision="bf16")] == 1
    assert shown[key("weighin_build_info", version="1.2", onnxruntime="1.32")] == 1


def test_index_names_are_unique() -> None:
    one, other = Metrics({}), Metrics({})
    one.observe("tiny", "compare", "total", [1])
    one.count_error("tiny", "busy")
    assert all(name.startswith("weighin_") for name, _ in scrape(one))
    assert not any("tiny" in dict(labels).values() for _, labels in scrape(other))


def test_threads_lose_nothing() -> None:
    metrics = Metrics({})

    def work() -> None:
        for _ in range(2000):
            metrics.observe("tiny", "live", "total", [1_000_000])
            metrics.count_error("tiny", "busy")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shown = scrape(metrics)
    assert (
        shown[key("weighin_stage_duration_seconds_count", model="tiny", regime="live", stage="total")] == 8000
    )
    assert shown[key("weighin_errors_total", model="tiny", kind="busy")] == 8000


def test_prometheus_of_compose_finds_each_container_of_the_service() -> None:
    """It asks Docker's DNS for all containers of each compose service that runs Weigh-in."""
    root = Path(__file__).resolve().parents[3]
    services = yaml.safe_load((root / "compose.yaml").read_text())["services"]
    [job] = yaml.safe_load((root / "docker/prometheus.yml").read_text())["scrape_configs"]
    [found] = job["dns_sd_configs"]
    assert set(found["names"]) == {name for name, service in services.items() if "build" in service}
    for name in found["names"]:
        assert services[name]["environment"]["WEIGHIN_PORT"] == str(found["port"])
    assert found["type"] == "A", "other types have no address of each container"
    assert "./docker/prometheus.yml:/etc/prometheus/prometheus.yml:ro" in services["prometheus"]["volumes"]
