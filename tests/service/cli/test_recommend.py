"""`weighin recommend` as people call it: with bundles in files and with what the data directory holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from models.zoo.card import read_card
from service.bench.archive import BenchmarkArchive
from service.bench.bundle import Bundle, ModelFacts
from service.bench.bundle_file import write_bundle
from service.bench.fingerprint import Fingerprint
from service.bench.recommend.advice import this_machine
from service.bench.store import BenchmarkStore
from service.storage.database import open_database
from tests.helpers import command_line
from tests.service.bench import bundles

pytestmark = pytest.mark.fault


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


def weighin(models: Path, data: Path, *arguments: str) -> command_line.CommandResult:
    return command_line.weighin(models, data, "recommend", *arguments)


def of_the_zoo(models: Path, on: Fingerprint) -> Bundle:
    """A measurement of the tiny models: `tiny` takes 1 ms, `tiny-b` 3."""
    random = np.random.default_rng(0)
    samples = {
        name: [
            [(random.normal(ms, 0.01 * ms, 40) * 1e6).astype(int).tolist() for _ in range(5)]
            for _ in range(5)
        ]
        for name, ms in (("tiny", 1.0), ("tiny-b", 3.0))
    }
    facts = tuple(ModelFacts.of(read_card(models / name)) for name in samples)
    return bundles.bundle(samples, on=on).model_copy(update={"models": facts})


def keep(data: Path, bundle: Bundle) -> str:
    data.mkdir(exist_ok=True)
    engine = open_database(None, data)
    identifier = BenchmarkArchive(BenchmarkStore(engine)).save(bundle)
    engine.dispose()
    return identifier


def test_with_nothing_measured_it_says_what_to_run(tiny_models_dir: Path, tmp_path: Path) -> None:
    done = weighin(tiny_models_dir, tmp_path, "--p99-ms", "10")
    assert done.returncode == 2
    assert "no recommendation: nothing that counts has been measured here" in done.stdout
    assert "tiny: not measured here: run `weighin bench --profile standard --models tiny`" in done.stdout
    assert "To measure what is missing: weighin bench --profile standard --models tiny,tiny-b" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_was_measured_here_counts(tiny_models_dir: Path, tmp_path: Path) -> None:
    keep(tmp_path, of_the_zoo(tiny_models_dir, this_machine()))
    done = weighin(tiny_models_dir, tmp_path, "--p99-ms", "2")
    assert done.returncode == 0, done.stderr
    assert "tiny: the only one that fits, p99 at most 1.0" in done.stdout
    assert "tiny-b: p99 3.0" in done.stdout
    assert " ms > 2 ms" in done.stdout
    assert "tiny: its accuracy is not known" in done.stdout


def test_what_was_measured_elsewhere_does_not_count_and_says_so(
    tiny_models_dir: Path, tmp_path: Path
) -> None:
    identifier = keep(tmp_path, of_the_zoo(tiny_models_dir, bundles.fingerprint(cpu="Another CPU")))
    done = weighin(tiny_models_dir, tmp_path, "--p99-ms", "2")
    assert done.returncode == 2
    assert f"Measurement {identifier} does not count: measured on another machine" in done.stdout
    assert "there Another CPU" in done.stdout


def test_a_bundle_recommends_for_the_machine_that_it_comes_from(
    tiny_models_dir: Path, tmp_path: Path
) -> None:
    pi = tmp_path / "pi.json"
    write_bundle(pi, of_the_zoo(tiny_models_dir, bundles.fingerprint(cpu="Cortex-A76")))
    done = weighin(tiny_models_dir, tmp_path, "--p99-ms", "2", "--bundle", str(pi))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("For Cortex-A76, 2 cores, onnxruntime 1.32.0, labels tiny-10:\ntiny: the")
    other = tmp_path / "other.json"
    write_bundle(other, of_the_zoo(tiny_models_dir, bundles.fingerprint(cpu="Cortex-A53")))
    mixed = weighin(tiny_models_dir, tmp_path, "--bundle", str(pi), "--bundle", str(other))
    assert mixed.returncode == 1
    assert mixed.stderr == (
        "weighin: pi.json and other.json come from different machines: "
        "cpu model: Cortex-A76, there Cortex-A53.\n"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 7}, "has schema version 7; this version"),
        ({"confidence": 0.5}, "was changed after it was written"),
        ({"digest": None}, "has no digest"),
    ],
)
def test_a_bundle_of_another_version_or_edited_by_hand_is_refused(
    change: dict[str, object], words: str, tiny_models_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "pi.json"
    write_bundle(path, of_the_zoo(tiny_models_dir, bundles.fingerprint()))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    done = weighin(tiny_models_dir, tmp_path, "--bundle", str(path))
    assert done.returncode == 1
    assert done.stderr.startswith("weighin: pi.json ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--p99-ms", "0"), "p99_ms is 0.0; it must be more than 0"),
        (("--max-mb", "0"), "max_bytes is 0; it must be more than 0"),
        (("--max-mb", "inf"), "max_bytes is 0; it must be more than 0"),
        (("--min-accuracy", "70"), "min_accuracy is 70.0; it may be 0 to 1"),
        (("--labels", "pets"), "labels is 'pets'; the models have tiny-10"),
        (("--bundle", "nowhere.json"), "nowhere.json cannot be read: No such file or directory"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], words: str, tiny_models_dir: Path, tmp_path: Path
) -> None:
    done = weighin(tiny_models_dir, tmp_path, *arguments)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
