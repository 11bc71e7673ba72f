"""The command line: `weighin models` and `weighin compare`, without a server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import service.cli
from models.zoo.display import shown
from service.cli import COMMANDS, load_command
from service.cli.output import millions
from tests.conftest import make_tiny_model
from tests.helpers.command_line import weighin
from tests.helpers.forked import run_forked
from tests.helpers.process import environment


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (860_200_000, "860 M"),
        (2_113_000_000, "2113 M"),
        (37_584_256, "37.6 M"),
        (4_520_536, "4.52 M"),
        (1200, "0.0012 M"),
    ],
)
def test_millions_of_small_counts(count: int, expected: str) -> None:
    assert millions(count) == expected


def test_models_table_marks_the_default(tiny_models_dir: Path, tmp_path: Path) -> None:
    done = weighin(tiny_models_dir, tmp_path, "models")
    assert done.returncode == 0
    assert "tiny *" in done.stdout
    assert "tiny-b" in done.stdout


def test_compare_prints_one_row_per_model_and_photo(
    tiny_models_dir: Path, tmp_path: Path, cat_jpeg: bytes, png: bytes
) -> None:
    (tmp_path / "cat.jpg").write_bytes(cat_jpeg)
    (tmp_path / "ramp.png").write_bytes(png)
    photos = [str(tmp_path / name) for name in ("cat.jpg", "ramp.png")]
    done = weighin(tiny_models_dir, tmp_path, "compare", *photos, "--baseline", "tiny-b", "--repeat", "3")
    assert done.returncode == 0, done.stderr
    assert "cat.jpg: 451 x 300 jpeg, 3 runs each" in done.stdout
    assert "ramp.png: 64 x 48 png" in done.stdout
    assert done.stdout.count("tiny-b (baseline)") == 2
    assert done.stdout.count("1.00x") >= 2


def test_compare_with_an_unreadable_photo(tiny_models_dir: Path, tmp_path: Path, png: bytes) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "ramp.png").write_bytes(png)
    photos = [str(tmp_path / name) for name in ("text.jpg", "gone.jpg", "ramp.png")]
    done = weighin(tiny_models_dir, tmp_path, "compare", *photos)
    assert done.returncode == 1
    assert "text.jpg: " in done.stderr
    assert "gone.jpg: " in done.stderr
    assert "ramp.png: 64 x 48" in done.stdout
    assert "Traceback" not in done.stderr


def test_unknown_model_prints_one_line(tiny_models_dir: Path, tmp_path: Path, png: bytes) -> None:
    (tmp_path / "ramp.png").write_bytes(png)
    done = weighin(tiny_models_dir, tmp_path, "compare", str(tmp_path / "ramp.png"), "--models", "resnet")
    assert done.returncode == 1
    assert done.stderr == "weighin: model 'resnet': unknown (allowed: tiny, tiny-b)\n"


HOSTILE = [
    b"holiday [edited].png",
    b"scan[/final].png",
    b"[red]:smile:[/red].png",
    b"100 %s {x} $HOME.png",
    b"a\x1b[31mb\x07.png",
    b"two\nlines.png",
    b"caf\xe9.png",
    "\u732b\u202egnp.png".encode(),
    b"-dash.png",
    b"l" * 251 + b".png",
]
"""File names as bytes."""

ENCODINGS = ["utf-8", "latin-1"]


def unmarked(text: str) -> str:
    """Return the text without line breaks and padding of tables."""
    return re.sub(r"\s+", "", text)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a zoo with a model whose labels contain terminal escapes, markup and newlines."""
    folder = make_tiny_model(tmp_path_factory.mktemp("labelled"), "tiny")
    (folder / "labels.txt").write_text("".join(f"[/b]:cat: \x1b[2J{n}\n" for n in range(10)))
    return folder.parent


@pytest.fixture
def hostile(tmp_path: Path, png: bytes) -> list[str]:
    """Return paths of photos with hostile names, and of one that does not exist."""
    photos = [tmp_path / os.fsdecode(name) for name in HOSTILE]
    for photo in photos:
        photo.parent.mkdir(exist_ok=True)
        photo.write_bytes(png)
    return [*map(str, photos), "gone[/b]\x1b"]


@pytest.mark.slow
@pytest.mark.parametrize("is_new", [True, False], ids=["LC_ALL=C", "PYTHONIOENCODING=ascii"])
def test_hostile_names_and_labels(is_new: bool, labelled: Path, tmp_path: Path, hostile: list[str]) -> None:
    """In a new process, whose locale Python reads at its start, and in one that is told its encoding."""
    env, command = environment(labelled, tmp_path / "data"), ["compare", "--repeat", "1", *hostile]
    if is_new:
        process = [sys.executable, "-m", "service", *command]
        done = subprocess.run(process, env=env | {"LC_ALL": "C"}, capture_output=True, check=False)
    else:
        done = run_forked(command, env | {"PYTHONIOENCODING": "ascii"})
    assert_shown(done.returncode, done.stdout.decode("latin-1"), done.stderr.decode("latin-1"))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_hostile_names_and_labels_in_an_encoding(
    labelled: Path, tmp_path: Path, hostile: list[str], encoding: str
) -> None:
    done = weighin(labelled, tmp_path / "data", "compare", "--repeat", "1", *hostile, encoding=encoding)
    out, err = (text.encode(encoding).decode("latin-1") for text in (done.stdout, done.stderr))
    assert_shown(done.returncode, out, err)


def assert_shown(returncode: int, out: str, err: str) -> None:
    """Check what was printed, read as Latin-1."""
    assert (returncode, err.count("\n")) == (1, 1)
    assert "gone[/b]\\x1b: " in err
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", out + err)
    assert unmarked(out).count("[/b]:cat:\\x1b[2J") == len(HOSTILE)
    for name in HOSTILE:
        if name.isascii():
            assert unmarked(shown(Path(name.decode()).name)) in unmarked(out)
    assert "caf\\xe9.png" in out


def test_model_list_with_blanks(tiny_models_dir: Path, tmp_path: Path, png: bytes) -> None:
    (tmp_path / "ramp.png").write_bytes(png)
    arguments = ["compare", str(tmp_path / "ramp.png"), "--repeat", "1", "--models"]
    done = weighin(tiny_models_dir, tmp_path, *arguments, " tiny-b , tiny,")
    assert done.returncode == 0, done.stderr
    assert "tiny-b" in done.stdout
    done = weighin(tiny_models_dir, tmp_path, *arguments, " ")
    assert done.returncode == 0, done.stderr


def test_broken_model_with_a_hostile_name(tmp_path: Path) -> None:
    for name in (b"[b]\x1b[2J", b"caf\xe9"):
        folder = tmp_path / "zoo" / os.fsdecode(name)
        folder.mkdir(parents=True)
        (folder / "card.json").write_text("{}")
    done = run_forked(["models"], environment(tmp_path / "zoo", tmp_path))
    assert done.returncode == 0, done.stderr
    assert b"[b]\\x1b[2J" in done.stdout
    assert b"\x1b" not in done.stdout
    assert b"caf\\xe9" in done.stderr, "skipped with a line in the log"


def test_consoles_are_made_in_one_module() -> None:
    """rich's own console would interpret names as markup, and `escape` leaves emoji codes."""
    for path in (Path(service.cli.__file__).parent).rglob("*.py"):
        if path.name != "output.py":
            assert not re.search(r"rich\.markup import|(?<!Literal)Console\(", path.read_text()), path


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_has_the_first_paragraph_of_each_commands_help(name: str) -> None:
    first = load_command(name).help.split("\n\n")[0]
    assert COMMANDS[name].help == " ".join(first.split())


def test_help_imports_no_command() -> None:
    code = "import sys; sys.argv = ['weighin', '--help']; from service.cli import main\n"
    code += "try: main()\nexcept SystemExit: print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in COMMANDS)
    loaded = done.stdout.splitlines()[-1].split()
    assert not {"numpy", "sqlalchemy", "onnxruntime", "service.cli.bench"} & set(loaded)
