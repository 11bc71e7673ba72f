"""Latency of ONNX models: run `weighin bench` in another process, and summarise its bundles."""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from models.errors import ModelsError
from models.zoo.card import Card, InputSpec, Source, write_card
from models.zoo.verdicts import Estimate, bootstrap

ROOT = Path(__file__).resolve().parents[2]
"""Folder that contains `models` and `service`."""
LAUNCHES = 5
UNTRAINED = "random, He-scaled"


@dataclass(frozen=True)
class Effort:
    """How much to measure: the number of rounds, and the number of runs of each model in a round.

    `rounds` is the number of rounds in all launches together. `launches` is the number of processes over
    which they are split. Raises ValueError for fewer than one round or run.
    """

    rounds: int
    runs: int
    launches: int = 1

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.runs < 1:
            raise ValueError(
                f"measurement: {self.rounds} rounds of {self.runs} runs (allowed: 1 or more of each)"
            )

    @classmethod
    def in_launches(cls, rounds: int, runs: int) -> Effort:
        """Return an effort of `rounds` rounds, split over LAUNCHES processes.

        If LAUNCHES does not divide `rounds`, there are fewer processes, so that all have equally many rounds.
        """
        return cls(rounds, runs, math.gcd(rounds, LAUNCHES) if rounds > 0 else 1)


@dataclass(frozen=True)
class Latency:
    """Measured latency of one model.

    `p50_ms` is the median of all runs. `low_ms` and `high_ms` are the lowest and the highest of the medians
    of the rounds.
    """

    p50_ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True)
class Measurement:
    """Summary of a bundle of `weighin bench`.

    An entry of the benchmark is a model or the control. `rounds` is the number of rounds in all launches
    together, and `runs` is the number of runs of an entry in a round. `latency` has the latency of each
    entry, by the entry's name. `models` has facts of each model's card, by the model's name. `control_ratio`
    is the control's p50 divided by the baseline's p50. `medians` has, by the entry's name, the median
    duration in nanoseconds of each round; the key of a round is (number of the launch, number of the round).
    `doubts` are reasons why the whole measurement is unreliable.
    """

    machine: str
    runtime: str
    rounds: int
    runs: int
    latency: Mapping[str, Latency]
    models: Mapping[str, Mapping[str, Any]]
    control_ratio: float
    medians: Mapping[str, Mapping[tuple[int, int], float]]
    doubts: tuple[str, ...] = ()

    def ratio(self, entry: str, other: str) -> Estimate:
        """Estimate, from all rounds, the logarithm of the time of `entry` divided by the time of `other`."""
        ratios: defaultdict[int, list[float]] = defaultdict(list)
        for at, median in self.medians[entry].items():
            ratios[at[0]].append(math.log(median / self.medians[other][at]))
        return bootstrap(ratios)


def measure(zoo: Path, names: Sequence[str], effort: Effort) -> dict[str, Any]:
    """Run `weighin bench` with one thread on the models `names` of `zoo`; return its bundle as decoded JSON.

    The first of `names` is the baseline. It is measured a second time as the control.
    Raises ModelsError, with the message of `weighin bench`, if the benchmark fails.
    """
    with tempfile.TemporaryDirectory(prefix="weighin-bench-") as work:
        bundle = Path(work) / "bundle.json"
        settings = {key: value for key, value in os.environ.items() if not key.startswith("WEIGHIN_")} | {
            "WEIGHIN_MODEL_DIRS": str(zoo.resolve()),
            "WEIGHIN_DEFAULT_MODEL": names[0],
            "WEIGHIN_DATA_DIR": str(Path(work) / "data"),
        }
        options = {
            "models": ",".join(names),
            "launches": effort.launches,
            "rounds": effort.rounds // effort.launches,
            "runs": effort.runs,
            "json": bundle,
        }
        command = [sys.executable, "-m", "service", "bench", *(f"--{k}={v}" for k, v in options.items())]
        done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise ModelsError(f"weighin bench failed: {lines[-1].removeprefix('weighin: ')}")
        return dict(json.loads(bundle.read_bytes()))


def read_bundle(path: Path) -> Measurement:
    """Return the summary of a bundle that `weighin bench --json` wrote to `path`.

    Raises OSError if the file cannot be read, and ValueError if it is not such a bundle.
    """
    try:
        return measurement(json.loads(path.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{path}: not a measurement of a zoo: {error}") from None


def measurement(bundle: Mapping[str, Any]) -> Measurement:
    """Return the summary of a bundle. Raises ValueError if it is damaged or its digest does not match."""
    try:
        content = {key: value for key, value in bundle.items() if key != "digest"}
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        if bundle["digest"] != hashlib.sha256(canonical.encode()).hexdigest():
            raise ValueError("digest: does not match the content")
        return _measurement(bundle)
    except (KeyError, TypeError, AttributeError, statistics.StatisticsError) as error:
        raise ValueError(f"not a bundle of `weighin bench` ({error!r})") from None


def _measurement(bundle: Mapping[str, Any]) -> Measurement:
    names = [entry["name"] for entry in bundle["entries"]]
    rounds: dict[str, dict[tuple[int, int], list[int]]] = {name: {} for name in names}
    for block in bundle["blocks"]:
        rounds[block["entry"]][block["launch"], block["round"]] = block["durations_ns"]["inference"]
    medians = {
        name: {at: statistics.median(durations) for at, durations in found.items()}
        for name, found in rounds.items()
    }
    latency = {name: _latency(rounds[name].values(), medians[name].values()) for name in names}
    baseline = bundle["configuration"]["baseline"]
    control = next(entry["name"] for entry in bundle["entries"] if entry["control"])
    machine = bundle["fingerprint"]["machine"]
    return Measurement(
        machine=f"{machine['cpu_model']} ({', '.join(machine['isa'])}), {machine['cores']} cores",
        runtime=f"ONNX Runtime {bundle['fingerprint']['software']['runtimes']['onnxruntime']}",
        rounds=bundle["configuration"]["launches"] * bundle["configuration"]["rounds"],
        runs=bundle["configuration"]["block_runs"],
        latency=latency,
        models={model["name"]: model for model in bundle["models"]},
        control_ratio=latency[control].p50_ms / latency[baseline].p50_ms,
        medians=medians,
        doubts=tuple(f"{f['kind']}: {f['reason']}" for f in bundle["flags"] if f["entry"] is None),
    )


def _latency(rounds: Iterable[Sequence[int]], medians: Collection[float]) -> Latency:
    """Return the latency from the duration of each run in nanoseconds, grouped by round in `rounds`.

    `medians` has the median of each round.
    """
    p50 = statistics.median(duration for durations in rounds for duration in durations)
    low, high = min(medians), max(medians)
    return Latency(*(round(nanoseconds / 1e6, 4) for nanoseconds in (p50, low, high)))


def write_untrained(
    folder: Path,
    content: bytes,
    spec: InputSpec,
    *,
    classes: int,
    parameters: int,
    macs: int,
    precision: Literal["fp32", "int8"] = "fp32",
) -> None:
    """Write an ONNX file with random weights to `folder/model.onnx`, with a card for `weighin bench`.

    The model takes the input of `spec` and returns `logits` (N, classes).
    """
    from models.export.to_onnx import model_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    (folder / "labels.txt").write_text("".join(f"class {number}\n" for number in range(classes)))
    card = Card(
        name=folder.name,
        labels="untrained",
        classes=classes,
        architecture=folder.name,
        block="unstated",
        precision=precision,
        input=spec,
        outputs={"logits": (classes,)},
        parameters=parameters,
        macs=macs,
        file=model_file(folder / "model.onnx"),
        source=Source(weights=UNTRAINED, licence="Apache-2.0"),
    )
    write_card(folder, card)


def normalised(channels: Literal[1, 3], height: int, width: int) -> InputSpec:
    """Return an input specification by which photographs get about mean 0 and standard deviation 1."""
    return InputSpec(
        height=height,
        width=width,
        channels=channels,
        resize=max(height, width),
        mean=(118.0,) * channels,
        std=(55.0,) * channels,
        interpolation="bilinear",
    )
