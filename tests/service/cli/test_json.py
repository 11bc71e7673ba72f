"""`--json FILE` of the commands: documents of the documented schemas, whole or not at all."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.api.models import ModelsResponse
from service.bench.bundle_file import to_json
from service.cli import COMMANDS, load_command
from service.cli.schemas import (
    DOCUMENTS,
    BundleComparison,
    Comparisons,
    DetectedPhoto,
    Diagnoses,
    json_schema,
)
from service.settings import Settings
from tests.conftest import make_tiny_model
from tests.helpers.command_line import CommandResult, parsed, weighin
from tests.helpers.detectors import save_detector
from tests.helpers.forked import run_forked
from tests.helpers.process import environment
from tests.service.bench.bundles import bundle
from tests.service.bench.doctor.networks import Network
from tests.service.conftest import running

DOCS = Path(__file__).parents[3] / "docs"


def test_models_as_the_service_lists_them(tiny_models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "zoo" / "broken").mkdir(parents=True)
    (tmp_path / "zoo" / "broken" / "card.json").write_text("{")
    folders = (tiny_models_dir, tmp_path / "zoo")
    done = weighin(
        tiny_models_dir, tmp_path, "models", "--json", "-", model_dirs=os.pathsep.join(map(str, folders))
    )
    assert done.returncode == 0, done.stderr
    listed = parsed(ModelsResponse, done.stdout)
    assert [(model.name, model.loaded) for model in listed.models] == [
        ("broken", False),
        ("tiny", True),
        ("tiny-b", True),
    ]
    with running(Settings(model_dirs=folders, default_model="tiny", data_dir=tmp_path / "data")) as client:
        assert ModelsResponse.model_validate(client.get("/models").json()) == listed


def test_file_beside_the_table(tiny_models_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    done = weighin(tiny_models_dir, tmp_path / "data", "models", "--json", str(file))
    assert (done.returncode, done.stderr) == (0, f"written to {file}\n")
    assert "tiny *" in done.stdout
    parsed(ModelsResponse, file.read_bytes())


def test_linked_file_stays_a_link(tiny_models_dir: Path, tmp_path: Path) -> None:
    file, link = tmp_path / "models.json", tmp_path / "link.json"
    file.write_text("old")
    link.symlink_to(file.name)
    assert weighin(tiny_models_dir, tmp_path / "data", "models", "--json", str(link)).returncode == 0
    assert link.is_symlink()
    parsed(ModelsResponse, file.read_bytes())


def test_pipe_is_written_not_replaced(tiny_models_dir: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        assert weighin(tiny_models_dir, tmp_path / "data", "models", "--json", str(pipe)).returncode == 0
        parsed(ModelsResponse, reader.stdout.read())
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("no/such/models.json", "folder not found"),
        ("", "is a folder (allowed: a file, or '-')"),
        ("x" * 255, "cannot be written: file name too long"),
        ("plain/models.json", "folder not found"),
    ],
    ids=lambda value: value[:20],
)
def test_unwritable_file_is_refused_at_once(tmp_path: Path, file: str, words: str) -> None:
    (tmp_path / "plain").write_text("a file")
    target = tmp_path / file
    # the work would fail otherwise: there is no folder of models
    done = weighin(tmp_path / "gone", tmp_path / "data", "models", "--json", str(target))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"weighin: --json {target}: {words}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


def test_input_is_not_overwritten(tiny_models_dir: Path, tmp_path: Path, png: bytes) -> None:
    photo, link = tmp_path / "ramp.png", tmp_path / "link.png"
    photo.write_bytes(png)
    link.symlink_to(photo.name)
    for target in (photo, link):
        done = weighin(tiny_models_dir, tmp_path / "data", "compare", str(photo), "--json", str(target))
        assert (done.returncode, done.stdout) == (1, "")
        assert (
            done.stderr == f"weighin: --json {target}: is an input of this command (allowed: another file)\n"
        )
    assert photo.read_bytes() == png


def to_standard_output(models_dir: Path, stdout: int, *command: str) -> CommandResult:
    """Run a command in a process of its own, with `stdout` as its standard output."""
    variables = environment(models_dir, models_dir / "no-data")
    done = run_forked([*command, "--json", "-"], variables, stdout)
    return CommandResult(done.returncode, "", done.stderr.decode())


@pytest.mark.slow
def test_broken_pipe_prints_one_line(tiny_models_dir: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = to_standard_output(tiny_models_dir, writer, "models")
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "weighin: standard output: cannot be written: broken pipe\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_prints_one_line(tiny_models_dir: Path, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = to_standard_output(tiny_models_dir, full.fileno(), "models")
    assert done.returncode == 1
    assert done.stderr == "weighin: standard output: cannot be written: no space left on device\n"
    done = weighin(tiny_models_dir, tmp_path, "models", "--json", "/dev/full")
    assert done.returncode == 1
    assert done.stderr == "weighin: --json /dev/full: cannot be written: no space left on device\n"
    assert done.stdout == ""


def test_comparison_with_an_unreadable_photo(tiny_models_dir: Path, tmp_path: Path, png: bytes) -> None:
    photos = [tmp_path / os.fsdecode(b"caf\xe9.png"), tmp_path / "gone.png"]
    photos[0].write_bytes(png)
    arguments = ["compare", *map(str, photos), "--repeat", "5", "--json", "-"]
    done = weighin(tiny_models_dir, tmp_path / "data", *arguments, encoding="latin-1")
    assert done.returncode == 1
    document = parsed(Comparisons, done.stdout.encode("latin-1"))
    (comparison,) = document.comparisons
    assert comparison.photo == str(tmp_path / "caf") + "\\xe9.png"
    assert comparison.image.width == 64
    assert {result.model for result in comparison.results} == {"tiny", "tiny-b"}
    assert all(result.latency_ms.count == 5 for result in comparison.results)
    assert [failed.model_dump() for failed in document.failed] == [
        {"photo": str(photos[1]), "reason": "no such file or directory"}
    ]


def test_comparison_of_detectors(tmp_path: Path, png: bytes) -> None:
    save_detector(tmp_path / "zoo")
    make_tiny_model(tmp_path / "zoo", "tiny")
    (tmp_path / "ramp.png").write_bytes(png)
    file = tmp_path / "out.json"
    arguments = ["compare", str(tmp_path / "ramp.png"), "--models", "tiny,colours", "--json", str(file)]
    done = weighin(tmp_path / "zoo", tmp_path / "data", *arguments)
    assert done.returncode == 0, done.stderr
    (comparison,) = parsed(Comparisons, file.read_bytes()).comparisons
    assert comparison.objects is not None
    assert [result.detections is None for result in comparison.results] == [True, False]
    assert "ramp.png: 64 x 48 png" in done.stdout


@pytest.mark.slow
def test_doctor_with_a_broken_model(tmp_path: Path) -> None:
    zoo, file = tmp_path / "zoo", tmp_path / "out.json"
    Network().conv("stem", 30, kernel=3, stride=2).conv("pw", 32).save(zoo, "odd")
    (make_tiny_model(zoo, "broken") / "model.onnx").write_bytes(b"no model")
    done = weighin(zoo, tmp_path / "data", "doctor", "--threads", "256", "--json", str(file))
    assert done.returncode == 1
    document = parsed(Diagnoses, file.read_bytes())
    (diagnosis,) = document.diagnoses
    assert [finding.slug for finding in diagnosis.findings] == [
        "channels-off-alignment",
        "threads-beyond-the-cores",
    ]
    assert document.threads == 256
    assert {operator.op for operator in diagnosis.operators} >= {"Conv"}
    assert 0 < sum(operator.share for operator in diagnosis.operators) <= 1.0001
    assert document.ceiling_gmacs_per_s["fp32"] > 0
    (failed,) = document.failed
    assert failed.model == "broken"
    assert f"{failed.model}: cannot be diagnosed: {failed.reason}" in done.stdout.replace("\n", " ")


def test_regression_between_bundles(tiny_models_dir: Path, tmp_path: Path) -> None:
    then, now = tmp_path / "then.json", tmp_path / "now.json"
    then.write_text(to_json(bundle({"a": [[[1_000_000] * 8] * 5] * 4, "gone": [[[9_000] * 8] * 5] * 4})))
    now.write_text(to_json(bundle({"a": [[[1_300_000] * 8] * 5] * 4})))
    command = ["bench", "compare", str(then), str(now), "--json"]
    done = weighin(tiny_models_dir, tmp_path / "data", *command, "-")
    assert (done.returncode, done.stderr) == (1, "")
    document = parsed(BundleComparison, done.stdout)
    assert (document.regressed, document.then, document.now) == (True, "then.json", "now.json")
    (change,) = document.changes
    assert (change.entry, change.then_p50_ms, change.now_p50_ms) == ("a", 1.0, 1.3)
    assert (change.verdict, change.regressed) == ("slower", True)
    assert document.only_then == ["gone"]
    for target, words in ((then, "is an input of this command"), (tmp_path / "no/x", "folder not found")):
        done = weighin(tiny_models_dir, tmp_path / "data", *command, str(target))
        assert done.returncode == 2  # 1 is a regression
        assert words in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_detections_of_a_photo_with_an_accent(tmp_path: Path, png: bytes, encoding: str) -> None:
    """Terminals that cannot encode a name get UTF-8 as well: an escape of Python's is not JSON."""
    save_detector(tmp_path / "zoo")
    photo = tmp_path / "caf\u00e9.png"
    photo.write_bytes(png)
    variables = environment(tmp_path / "zoo", tmp_path / "data") | {"PYTHONIOENCODING": encoding}
    done = run_forked(["detect", str(photo), "--model", "colours", "--json"], variables)
    assert done.returncode == 0, done.stderr
    assert parsed(DetectedPhoto, done.stdout).photo == str(photo)


def test_schemas_in_docs_are_the_code_s() -> None:
    assert (DOCS / "commands.schema.json").read_text() == json_schema(), (
        "python -m service.cli.schemas > docs/commands.schema.json"
    )


def commands_with_json() -> set[str]:
    """Return the commands of `weighin` that have the option `--json`."""

    def walk(name: str, command: Any) -> Iterator[str]:
        if any("--json" in parameter.opts for parameter in command.params):
            yield name
        for child, below in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {child}", below)

    return {found for name in COMMANDS for found in walk(name, load_command(name))}


def test_page_lists_every_command_with_json() -> None:
    page = (DOCS / "json.md").read_text()
    listed = re.findall(r"^\| `weighin ([a-z ]+)[^`]* --json", page, re.MULTILINE)
    assert sorted(name.strip() for name in listed) == sorted(commands_with_json())
    named = re.findall(r"`(\w+)` of \[commands.schema.json\]", page)
    assert sorted(named) == sorted(document.__name__ for document in DOCUMENTS)


@pytest.mark.slow
def test_routes_have_the_schemas_of_the_page(openapi: dict[str, Any]) -> None:
    page = (DOCS / "json.md").read_text()
    schemas = openapi["components"]["schemas"]
    named = re.findall(r"`(\w+)` of \[api.md\]", page)
    assert named
    assert set(named) <= set(schemas)
