"""Make reports of given benchmarks and evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.zoo.card import Card
from service.bench.bundle import Bundle, Entry, Memory
from service.bench.bundle_file import stated_digest, to_json
from service.bench.recommend.evidence import StoredBundle
from service.bench.report.build import build_report
from service.bench.report.document import Report
from service.evaluation.result import Evaluation
from tests.service.bench import bundles


@dataclass(frozen=True)
class Model:
    """A fictitious model: median latency, accuracy, bytes of the file."""

    ms: float
    accuracy: float = 0.75
    bytes: int = 4_000_000


def benchmark(models: Mapping[str, Model], *, launches: int = 3, rounds: int = 4, runs: int = 60) -> Bundle:
    """Return a benchmark with a spread of 1 %; the first model is the baseline, which has a control."""
    random = np.random.default_rng(0)
    baseline = next(iter(models))
    medians = {name: model.ms for name, model in models.items()} | {f"{baseline}#again": models[baseline].ms}
    samples = {
        name: [
            [(random.normal(ms, 0.01 * ms, runs) * 1e6).astype(int).tolist() for _ in range(rounds)]
            for _ in range(launches)
        ]
        for name, ms in medians.items()
    }
    made = bundles.bundle(samples, baseline=baseline, control=f"{baseline}#again")
    facts = tuple(
        bundles.facts(name, model.accuracy).model_copy(update={"bytes": model.bytes})
        for name, model in models.items()
    )
    memory = tuple(Memory(entry=name, before_bytes=1, peak_bytes=90_000_000) for name in models)
    return made.model_copy(update={"models": facts, "memory": memory})


def entry(name: str, model: str, **fields: object) -> Entry:
    """Return an entry on one thread in ONNX Runtime, or as `fields` say."""
    return Entry(**({"name": name, "model": model, "runtime": "onnxruntime", "threads": 1} | fields))  # type: ignore[arg-type]


def report(
    bundle: Bundle,
    evaluation: Evaluation | None = None,
    cards: Mapping[str, Card] | None = None,
    name: str = "bench.json",
) -> Report:
    """Return the report of a benchmark."""
    return build_report(StoredBundle(name, bundle), stated_digest(to_json(bundle)), cards or {}, evaluation)
