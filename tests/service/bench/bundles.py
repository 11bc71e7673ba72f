"""Create bundles from given samples, without measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from models.zoo.card import Accuracy
from service.bench.bundle import (
    Block,
    Bundle,
    Configuration,
    Entry,
    Flag,
    Inputs,
    ModelFacts,
)
from service.bench.fingerprint import Fingerprint, Machine, Software, State

MOMENT = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def fingerprint(cpu: str = "Test CPU", onnxruntime: str = "1.32.0") -> Fingerprint:
    """Return a fingerprint of a fictitious machine."""
    return Fingerprint(
        machine=Machine(
            architecture="x86_64",
            cpu_model=cpu,
            cpu_id="Test 1 2 3",
            isa=("avx2",),
            cpus=2,
            quota_cores=None,
            cores=2,
        ),
        software=Software(
            runtimes={"onnxruntime": onnxruntime},
            session_options={"allow_spinning": "0"},
            python="3.11.0",
            weighin="0.1.0",
            system="Linux 6.0",
        ),
        state=State(
            governor=None,
            frequency_mhz=None,
            load_1m=0.1,
            steal_fraction=0.0,
            throttled_periods=None,
            memory_bytes=None,
        ),
    )


def facts(name: str, accuracy: float = 0.75) -> ModelFacts:
    """Return facts of a fictitious model."""
    return ModelFacts(
        name=name,
        sha256="0" * 64,
        bytes=4_000_000,
        labels="imagenet-1k",
        classes=1000,
        architecture="test",
        block="inverted-residual",
        precision="fp32",
        height=224,
        width=224,
        parameters=4_000_000,
        macs=400_000_000,
        accuracy=Accuracy(value=accuracy, kind="reported", dataset="imagenet-1k", n=50_000, how="test"),
        agreement=None,
        derived_from=None,
        trained=True,
    )


def bundle(
    samples: Mapping[str, Sequence[Sequence[Sequence[int]]]],
    *,
    baseline: str | None = None,
    control: str | None = None,
    flags: Sequence[Flag] = (),
    on: Fingerprint | None = None,
) -> Bundle:
    """A bundle with the inference durations `samples[entry][launch][round]`, in nanoseconds.

    Every entry but `control` is a model of its own; `control` runs the baseline's.
    """
    baseline = baseline or next(iter(samples))
    entries = [
        Entry(
            name=name,
            model=baseline if name == control else name,
            runtime="onnxruntime",
            threads=1,
            control=name == control,
        )
        for name in samples
    ]
    blocks = [
        Block(
            launch=launch,
            round=number,
            position=position,
            entry=name,
            durations_ns={"inference": tuple(durations)},
        )
        for position, (name, launches) in enumerate(samples.items())
        for launch, rounds in enumerate(launches)
        for number, durations in enumerate(rounds)
    ]
    first = samples[baseline]
    return Bundle(
        started_at=MOMENT,
        finished_at=MOMENT,
        regime="isolated",
        configuration=Configuration(
            profile="standard",
            scenario="single-stream",
            baseline=baseline,
            launches=len(first),
            rounds=len(first[0]),
            block_runs=len(first[0][0]),
            block_s=0,
            seed=1,
            inputs=Inputs(kind="synthetic", count=1, sha256=("0" * 64,)),
        ),
        fingerprint=on or fingerprint(),
        models=tuple(facts(name) for name in samples if name != control),
        entries=tuple(entries),
        gates=(),
        warm_ups=(),
        cold=(),
        memory=(),
        blocks=tuple(blocks),
        flags=tuple(flags),
    )
