"""`weighin report`: formats, where the benchmark and the evaluation come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.zoo.files import NETWORKS
from service.bench.archive import BenchmarkArchive
from service.bench.bundle_file import write_bundle
from service.bench.report.document import Report
from service.bench.store import BenchmarkStore
from service.evaluation.result import write_evaluation
from service.evaluation.store import EvaluationStore
from service.storage.database import open_database
from tests.helpers import command_line
from tests.helpers.forked import run_forked
from tests.helpers.process import environment
from tests.service.bench.report.reports import Model, benchmark
from tests.service.evaluation.evaluations import evaluation

ROOT = Path(__file__).resolve().parents[3]
FORMATS = ("html", "md", "csv", "json")
BUNDLE = benchmark({"a": Model(ms=3.0, accuracy=0.8), "b": Model(ms=1.0, accuracy=0.7)})


def weighin(models: Path, data: Path, *arguments: str) -> command_line.CommandResult:
    return command_line.weighin(models, data, "report", *arguments)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "pi.json"
    write_bundle(path, BUNDLE)
    return path


def store(data: Path) -> tuple[str, str]:
    """Store the benchmark and an evaluation of its models; return their ids."""
    data.mkdir(exist_ok=True)
    engine = open_database(None, data)
    identifier = BenchmarkArchive(BenchmarkStore(engine)).save(BUNDLE)
    made = EvaluationStore(engine).save(evaluation({"a": [True, False] * 30, "b": [True] * 60}))
    engine.dispose()
    return identifier, made.id


def test_all_formats_of_a_bundle(tiny_models_dir: Path, tmp_path: Path, bundle: Path) -> None:
    files = {name: tmp_path / f"report.{name}" for name in FORMATS}
    options = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    done = weighin(tiny_models_dir, tmp_path / "none", "--bench", str(bundle), *options)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [f"written to {path}" for path in files.values()]
    made = Report.model_validate_json(files["json"].read_bytes())
    assert made.benchmark.name == "pi.json"
    assert [each.entry for each in made.models] == ["a", "b", "a#again"]
    for name, path in files.items():
        assert name in ("json", "csv") or made.title in path.read_text()
    assert not (tmp_path / "none").exists()


def test_newest_benchmark_by_default_and_others_by_id(tiny_models_dir: Path, tmp_path: Path) -> None:
    identifier, data = store(tmp_path)
    out = tmp_path / "out.json"
    done = weighin(tiny_models_dir, tmp_path, "--json", str(out))
    assert done.returncode == 0
    made = Report.model_validate_json(out.read_bytes())
    assert made.benchmark.name == identifier
    assert made.evaluation is None
    done = weighin(tiny_models_dir, tmp_path, "--bench", identifier, "--data", data, "--json", str(out))
    assert done.returncode == 0
    made = Report.model_validate_json(out.read_bytes())
    assert made.evaluation is not None
    assert [(each.model, each.accuracy.value) for each in made.evaluation.models] == [("a", 0.5), ("b", 1.0)]


def test_evaluation_from_a_file_to_standard_output(
    tiny_models_dir: Path, tmp_path: Path, bundle: Path
) -> None:
    path = tmp_path / "pets.json"
    write_evaluation(path, evaluation({"a": [True, False] * 30, "b": [True] * 60}))
    done = weighin(tiny_models_dir, tmp_path, "--bench", str(bundle), "--data", str(path), "--md", "-")
    assert done.returncode == 0
    assert done.stdout.startswith("### 2 models on Test CPU, 2 cores\n")
    assert "| a | 50.0%" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no format (needed: one or more of --html, --md, --csv, --json)"),
        (("--html", "OUT"), "no benchmark is stored here (needed: `weighin bench`, or --bench FILE)"),
        (("--html", "OUT", "--bench", "0123"), "benchmark '0123': unknown (allowed: a file, or an id, none"),
        (("--html", "OUT", "--bench", "gone.json"), "gone.json cannot be read: no such file or directory"),
        (
            ("--html", "OUT", "--bench", "BUNDLE", "--data", "0123"),
            "--data 0123: no such evaluation (allowed: a file, or an id: none is stored; `weighin evaluate`",
        ),
        (("--html", "OUT", "--bench", "BUNDLE", "--data", "BUNDLE"), "pi.json: "),
        (("--html", "OUT", "--md", "OUT", "--bench", "BUNDLE"), "is the file of --html too"),
        (("--json", "BUNDLE", "--bench", "BUNDLE"), "is an input of this command (allowed: another file)"),
        (("--html", "/nowhere/OUT", "--bench", "BUNDLE"), "folder not found"),
        (("--html", "FOLDER", "--bench", "BUNDLE"), "is a folder"),
    ],
)
def test_invalid_input_prints_one_line(
    arguments: tuple[str, ...], words: str, tiny_models_dir: Path, tmp_path: Path, bundle: Path
) -> None:
    out = tmp_path / "out"
    names = {"OUT": str(out), "BUNDLE": str(bundle), "FOLDER": str(tmp_path)}
    done = weighin(tiny_models_dir, tmp_path / "data", *(names.get(part, part) for part in arguments))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert not out.exists()


def test_unknown_id_names_the_newest(tiny_models_dir: Path, tmp_path: Path) -> None:
    identifier, data = store(tmp_path)
    done = weighin(tiny_models_dir, tmp_path, "--bench", "0123", "--html", str(tmp_path / "out"))
    assert f"the newest are {identifier})" in done.stderr
    done = weighin(tiny_models_dir, tmp_path, "--data", "0123", "--html", str(tmp_path / "out"))
    assert done.stderr == (
        f"weighin: --data 0123: no such evaluation (allowed: a file, or an id: {data} of pets)\n"
    )


@pytest.mark.slow
def test_full_disk_leaves_no_part(tiny_models_dir: Path, tmp_path: Path, bundle: Path) -> None:
    """A limit on the size of files stands for the full disk: it ends the same write in the same place."""
    out = tmp_path / "out.html"
    out.write_text("the report before")
    done = run_forked(
        ["report", "--bench", str(bundle), "--html", str(out)],
        environment(tiny_models_dir, tmp_path / "data"),
        largest_file=4096,
    )
    assert done.returncode == 1
    assert f"--html {out}: cannot be written: file too large" in done.stderr.decode()
    assert out.read_text() == "the report before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.html", "pi.json"]


@pytest.mark.slow
def test_the_example_in_docs_is_what_the_command_writes(tmp_path: Path) -> None:
    bench, data = ROOT / "docs/zoo-latency.json", ROOT / "docs/report-example-evaluation.json"
    done = weighin(NETWORKS, tmp_path, "--bench", str(bench), "--data", str(data), "--html", "-")
    assert done.returncode == 0
    assert (ROOT / "docs/report-example.html").read_text() == done.stdout, (
        "weighin report --bench docs/zoo-latency.json --data docs/report-example-evaluation.json "
        "--html docs/report-example.html"
    )
