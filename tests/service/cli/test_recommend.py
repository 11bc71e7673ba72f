"""`weighin recommend` with bundle files and with the data directory."""

from __future__ import annotations

import json
import re
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
from service.evaluation.store import EvaluationStore
from service.storage.database import open_database
from tests.helpers import command_line
from tests.service.bench import bundles
from tests.service.evaluation.evaluations import evaluation

pytestmark = pytest.mark.fault


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


def weighin(models: Path, data: Path, *arguments: str) -> command_line.CommandResult:
    return command_line.weighin(models, data, "recommend", *arguments)


def benchmark_of_zoo(models: Path, on: Fingerprint) -> Bundle:
    """Return a benchmark of the tiny models: `tiny` takes 1 ms, `tiny-b` 3 ms."""
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


def store(data: Path, bundle: Bundle) -> str:
    data.mkdir(exist_ok=True)
    engine = open_database(None, data)
    identifier = BenchmarkArchive(BenchmarkStore(engine)).save(bundle)
    engine.dispose()
    return identifier


def test_recommend_without_benchmarks(tiny_models_dir: Path, tmp_path: Path) -> None:
    done = weighin(tiny_models_dir, tmp_path, "--p99-ms", "10")
    assert done.returncode == 2
    assert "no recommendation: no usable benchmark: see the reasons per model" in done.stdout
    assert "tiny: not measured here: run `weighin bench --profile standard --models tiny`" in done.stdout
    small = weighin(tiny_models_dir, tmp_path, "--max-mb", "0.000001")
    assert re.search(r"^  tiny, tiny-b: .* MB > ", small.stdout, re.MULTILINE)
    assert (
        "To measure the missing models: weighin bench --profile standard --models tiny,tiny-b" in done.stdout
    )
    assert list(tmp_path.iterdir()) == []
    assert "no recommendation: no model is within all bounds" in small.stdout


def test_recommend_from_local_benchmarks(tiny_models_dir: Path, tmp_path: Path) -> None:
    store(tmp_path, benchmark_of_zoo(tiny_models_dir, this_machine()))
    done = weighin(tiny_models_dir, tmp_path, "--p99-ms", "2")
    assert done.returncode == 0, done.stderr
    assert "tiny: the only one that fits, p99 at most 1.0" in done.stdout
    assert "tiny-b: p99 3.0" in done.stdout
    assert " ms > 2 ms" in done.stdout
    assert "tiny: accuracy unknown" in done.stdout


def test_table_is_not_cut_off_on_a_narrow_terminal(
    tiny_models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path, benchmark_of_zoo(tiny_models_dir, this_machine()))
    monkeypatch.setenv("COLUMNS", "30")
    done = weighin(tiny_models_dir, tmp_path, "--p99-ms", "2")
    (heading,) = [line for line in done.stdout.splitlines() if line.startswith("fits ")]
    assert heading.endswith("confidence")
    assert "…" not in done.stdout


def test_benchmark_of_another_machine_is_not_used(tiny_models_dir: Path, tmp_path: Path) -> None:
    identifier = store(tmp_path, benchmark_of_zoo(tiny_models_dir, bundles.fingerprint(cpu="Another CPU")))
    done = weighin(tiny_models_dir, tmp_path, "--p99-ms", "2")
    assert done.returncode == 2
    assert f"Benchmark {identifier} not used: measured on another machine" in done.stdout
    assert "there Another CPU" in done.stdout


def test_recommend_for_another_kind_of_machine(tiny_models_dir: Path, tmp_path: Path) -> None:
    here = this_machine()
    other = bundles.fingerprint(cpu="Another CPU").model_copy(update={"software": here.software})
    store(tmp_path, benchmark_of_zoo(tiny_models_dir, here))
    store(tmp_path, benchmark_of_zoo(tiny_models_dir, other))
    ours = weighin(tiny_models_dir, tmp_path, "--p99-ms", "2")
    assert ours.stdout.startswith(f"For {here.machine.name}, onnxruntime ")
    assert "with benchmarks (--machine):\n  Another CPU, 2 cores: tiny: the only one that fits" in ours.stdout
    theirs = weighin(tiny_models_dir, tmp_path, "--p99-ms", "2", "--machine", "Another CPU, 2 cores")
    assert theirs.returncode == 0, theirs.stderr
    assert theirs.stdout.startswith("For Another CPU, 2 cores, onnxruntime ")
    assert f"  {here.machine.name}: tiny: the only one that fits" in theirs.stdout
    wrong = weighin(tiny_models_dir, tmp_path, "--machine", "Abacus")
    assert wrong.returncode == 1
    allowed = "; ".join(sorted(["Another CPU, 2 cores", here.machine.name]))
    assert wrong.stderr == f"weighin: machine 'Abacus': no benchmarks (allowed: {allowed})\n"


def test_recommend_from_bundle_files(tiny_models_dir: Path, tmp_path: Path) -> None:
    pi = tmp_path / "pi.json"
    write_bundle(pi, benchmark_of_zoo(tiny_models_dir, bundles.fingerprint(cpu="Cortex-A76")))
    done = weighin(tiny_models_dir, tmp_path, "--p99-ms", "2", "--bundle", str(pi))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("For Cortex-A76, 2 cores, onnxruntime 1.32.0, labels tiny-10:\ntiny: the")
    bundle = ("recommend", "--p99-ms", "2", "--bundle", str(pi))
    wrong = {"database_url": "postgresql://nobody@127.0.0.1:1/none"}
    assert command_line.weighin(tiny_models_dir, tmp_path, *bundle, **wrong).stdout == done.stdout
    refused = command_line.weighin(tiny_models_dir, tmp_path, *bundle, "--data", "0" * 16, **wrong)
    assert refused.returncode == 1
    assert "database" in refused.stderr
    other = tmp_path / "other.json"
    write_bundle(other, benchmark_of_zoo(tiny_models_dir, bundles.fingerprint(cpu="Cortex-A53")))
    mixed = weighin(tiny_models_dir, tmp_path, "--bundle", str(pi), "--bundle", str(other))
    assert mixed.returncode == 1
    assert mixed.stderr == (
        "weighin: pi.json and other.json: from different machines (cpu model: Cortex-A76, there Cortex-A53); "
        "choose one with --machine (allowed: Cortex-A53, 2 cores; Cortex-A76, 2 cores)\n"
    )
    both = ("--bundle", str(pi), "--bundle", str(other), "--machine")
    one = weighin(tiny_models_dir, tmp_path, *both, "Cortex-A53, 2 cores")
    assert one.stdout.startswith("For Cortex-A53, 2 cores, onnxruntime 1.32.0, ")
    assert "not used" not in one.stdout
    none = weighin(tiny_models_dir, tmp_path, *both, "Cortex-A7")
    assert none.returncode == 1
    assert none.stderr == (
        "weighin: machine 'Cortex-A7': no benchmarks (allowed: Cortex-A53, 2 cores; Cortex-A76, 2 cores)\n"
    )


def test_recommend_by_own_pictures(tiny_models_dir: Path, tmp_path: Path) -> None:
    """`tiny` is faster, `tiny-b` better on the pictures; the file has the answer of GET /recommend."""
    store(tmp_path, benchmark_of_zoo(tiny_models_dir, this_machine()))
    cards = {name: read_card(tiny_models_dir / name) for name in ("tiny", "tiny-b")}
    made = evaluation({"tiny": [True, False] * 100, "tiny-b": [True] * 200}, cards=cards)
    engine = open_database(None, tmp_path)
    EvaluationStore(engine).save(made)
    engine.dispose()
    plain = weighin(tiny_models_dir, tmp_path)
    assert "Accuracies: accuracy is unknown: run `weighin evaluate --data FOLDER` on labelled" in plain.stdout
    file = tmp_path / "answer.json"
    done = weighin(tiny_models_dir, tmp_path, "--data", made.id, "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert "tiny-b: the most accurate of 2 that fit, accuracy 100.0% (on " in done.stdout
    assert "Accuracies: accuracy on 'pets', 200 pictures of 2 of the 10 classes of tiny-10" in done.stdout
    assert re.search(r"fits +ranked by +accuracy .*\ntiny-b +100.0% +100.0% \[96.4, 100.0\]", done.stdout)
    answer = json.loads(file.read_text())
    printed = weighin(tiny_models_dir, tmp_path, "--data", made.id, "--json", "-")
    assert json.loads(printed.stdout) == answer
    assert (answer["recommended"], answer["data"]) == ("tiny-b", made.id)
    assert answer["fits"][0]["accuracy"]["kind"] == "evaluated"
    assert done.stderr == f"written to {file}\n"
    fast = weighin(tiny_models_dir, tmp_path, "--data", made.id, "--p99-ms", "2", "--min-accuracy", "0.9")
    assert fast.returncode == 2
    assert "no model is within all bounds" in fast.stdout


def test_recommend_by_what_is_not_there(tiny_models_dir: Path, tmp_path: Path) -> None:
    none = weighin(tiny_models_dir, tmp_path, "--data", "none")
    assert (none.returncode, none.stderr) == (
        1,
        "weighin: --data none: no such evaluation (allowed: none is stored; `weighin evaluate` makes one)\n",
    )
    assert list(tmp_path.iterdir()) == []
    engine = open_database(None, tmp_path)
    made = evaluation({"tiny": [True] * 200}, cards={"tiny": read_card(tiny_models_dir / "tiny")})
    EvaluationStore(engine).save(made)
    engine.dispose()
    other = weighin(tiny_models_dir, tmp_path, "--data", "pets")
    assert other.stderr == f"weighin: --data pets: no such evaluation (allowed: {made.id} of pets)\n"
    unwritable = weighin(tiny_models_dir, tmp_path, "--json", str(tmp_path / "none" / "answer.json"))
    assert unwritable.returncode == 1
    assert "answer.json: folder not found" in unwritable.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 7}, "schema version 7 (allowed: 1)"),
        ({"confidence": 0.5}, "changed after it was written"),
        ({"digest": None}, "no digest"),
    ],
)
def test_invalid_bundle_file(
    change: dict[str, object], words: str, tiny_models_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "pi.json"
    write_bundle(path, benchmark_of_zoo(tiny_models_dir, bundles.fingerprint()))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    done = weighin(tiny_models_dir, tmp_path, "--bundle", str(path))
    assert done.returncode == 1
    assert done.stderr.startswith("weighin: pi.json: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--p99-ms", "0"), "p99_ms 0.0: out of range (allowed: above 0"),
        (("--max-mb", "0"), "max_bytes 0: out of range (allowed: above 0"),
        (("--max-mb", "inf"), "max_bytes 0: out of range (allowed: above 0"),
        (("--min-accuracy", "70"), "min_accuracy 70.0: out of range (allowed: 0 to 1"),
        (("--labels", "pets"), "labels 'pets': unknown (allowed: tiny-10)"),
        (("--bundle", "nowhere.json"), "nowhere.json cannot be read: no such file or directory"),
    ],
)
def test_invalid_input_prints_one_line(
    arguments: tuple[str, ...], words: str, tiny_models_dir: Path, tmp_path: Path
) -> None:
    done = weighin(tiny_models_dir, tmp_path, *arguments)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
