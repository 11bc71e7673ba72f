"""`weighin evaluate`: tables, files, exit codes, and interrupted evaluations that go on."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.evaluation.result import from_json, read_evaluation
from service.state import open_state
from tests.helpers import command_line
from tests.helpers.networks import save_network
from tests.helpers.process import environment
from tests.helpers.until import until
from tests.service.evaluation.colours import picture, save_colours, save_pictures, save_reds


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Return a folder with a good and a bad classifier, and one of another label set."""
    save_colours(tmp_path / "zoo", "good")
    save_reds(tmp_path / "zoo", "reds")
    save_network(tmp_path / "zoo", "fruits", classes=3, names=("apple", "pear", "plum"))
    return tmp_path / "zoo"


def evaluate(zoo: Path, *arguments: str, **settings: object) -> command_line.CommandResult:
    data_dir = zoo.parent / "kept"
    return command_line.weighin(zoo, data_dir, "evaluate", *arguments, default_model="good", **settings)


@pytest.mark.slow
def test_tables_and_verdict(tmp_path: Path, zoo: Path) -> None:
    data = tmp_path / "pictures"
    contents = save_pictures(data, 20)
    (data / "red/copy.png").write_bytes(contents["red/1.png"])
    (data / "green/text.png").write_text("no picture")
    file = tmp_path / "out.json"
    done = evaluate(zoo, "--data", str(data), "--json", str(file), "--corrupt")
    assert done.returncode == 0, done.stderr
    evaluation = read_evaluation(file)
    lines = done.stdout.splitlines()
    assert lines[0] == (
        f"pictures: 62 pictures, 60 of them distinct and usable, 3 classes; evaluation {evaluation.id}"
    )
    columns = "colours (60 pictures) top-1 [95 %] class mean [95 %] ECE sure from corrupted"
    assert lines[2].split() == columns.split()
    good = evaluation.model("good")
    assert good is not None
    assert good.classification is not None
    top1 = good.classification.top1
    expected = f"good {top1.value:.1%} [{100 * top1.low:.1f}, {100 * top1.high:.1f}]"
    assert re.sub(" +", " ", lines[3]).startswith(expected)
    assert lines[4].startswith("reds ")
    assert lines[5] == "good has the highest accuracy; it is better than reds."
    assert lines[6].startswith("hardest classes for good: ")
    assert "not evaluated: fruits: label set fruits-labels has none of the 3 classes" in lines
    assert "  red/copy.png = red/1.png" in lines
    assert any(line.startswith("  green/text.png: image: unknown type") for line in lines)
    with open_state(tmp_path / "kept", None) as state:
        stored = state.evaluations.get(evaluation.id)
    assert stored == evaluation
    assert f"stored as {evaluation.id}" in done.stderr
    assert not list((tmp_path / "kept").glob("evaluations/*"))


def test_json_on_standard_output(tmp_path: Path, zoo: Path) -> None:
    save_pictures(tmp_path / "pictures", 1)
    done = evaluate(zoo, "--data", str(tmp_path / "pictures"), "--json", "-")
    assert done.returncode == 0, done.stderr
    evaluation = from_json(done.stdout)
    assert {model.name for model in evaluation.models} == {"good", "reds"}
    assert f"stored as {evaluation.id}" in done.stderr


def test_few_pictures_are_no_verdict(tmp_path: Path, zoo: Path) -> None:
    save_pictures(tmp_path / "pictures", 1)
    done = evaluate(zoo, "--data", str(tmp_path / "pictures"))
    assert done.returncode == 0, done.stderr
    assert "good has the highest accuracy, but is not distinguishable from reds." in done.stdout


def test_models_left_out_for_one_reason_are_one_line(tmp_path: Path, zoo: Path) -> None:
    for name in ("pair", "two"):
        save_network(zoo, name, classes=3, names=("apple", "a", "b"), labels="other")
    save_network(zoo, "fruit", classes=8, names=("apple", *"abcdefg"))
    save_pictures(tmp_path / "pictures", 1)
    for name in ("red", "green", "blue"):
        (tmp_path / "pictures" / name).rename(
            tmp_path / "pictures" / {"red": "a", "green": "b"}.get(name, "c")
        )
    for name in "defg":
        (tmp_path / "pictures" / name).mkdir()
        (tmp_path / f"pictures/{name}/0.png").write_bytes(picture("red", 100 + ord(name)))
    done = evaluate(zoo, "--data", str(tmp_path / "pictures"))
    assert done.returncode == 0, done.stderr
    reason = "label set other has 2 of the 7 classes, fruit-labels has 7; --models NAME evaluates it"
    assert f"not evaluated: pair and two: {reason}" in done.stdout


@pytest.mark.slow
def test_models_of_the_same_accuracy(tmp_path: Path, zoo: Path) -> None:
    for name in ("other", "same"):
        save_colours(zoo, name)
    save_pictures(tmp_path / "pictures", 40)
    done = evaluate(zoo, "--data", str(tmp_path / "pictures"))
    assert done.returncode == 0, done.stderr
    assert "good, other and same have the highest accuracy; good is better than reds." in done.stdout
    done = evaluate(zoo, "--data", str(tmp_path / "pictures"), "--models", "good,other,same")
    assert "All 3 models have the same accuracy." in done.stdout


def test_all_names_that_match_no_label_are_listed(tmp_path: Path, zoo: Path) -> None:
    """People need them to write a mapping; those of most pictures come first."""
    save_pictures(tmp_path / "pictures", 2)
    for number in range(11):
        (tmp_path / f"pictures/thing {number:02}").mkdir()
        (tmp_path / f"pictures/thing {number:02}/0.png").write_bytes(picture("red", 100 + number))
    (tmp_path / "pictures/thing 10/1.png").write_bytes(picture("red", 200))
    done = evaluate(zoo, "--data", str(tmp_path / "pictures"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    start = lines.index("not counted for colours: 11 classes, 12 pictures")
    assert lines[start + 1] == "  thing 10 (2): no label of colours"
    assert lines[start + 10] == "  thing 08 (1): no label of colours"
    assert lines[start + 11] == "  and 1 more (--json FILE lists all)"


def test_mapping_and_chosen_models(tmp_path: Path, zoo: Path) -> None:
    save_pictures(tmp_path / "pictures", 2)
    (tmp_path / "names").write_text("red = apple\ngreen = pear\nblue = -\n")
    arguments = ["--data", str(tmp_path / "pictures"), "--mapping", str(tmp_path / "names")]
    done = evaluate(zoo, *arguments, "--models", "fruits")
    assert done.returncode == 0, done.stderr
    assert "fruits-labels (4 pictures)" in done.stdout
    assert "not counted for fruits-labels: 1 class, 2 pictures" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--data", "gone"], 2, "weighin: --data gone: no such file or folder"),
        (["--data", "zoo/fruits"], 2, "weighin: --data fruits: no folder with pictures"),
        (["--data", "pictures", "--models", "resnet"], 1, "weighin: model 'resnet': unknown"),
        (["--data", "pictures", "--models", "fruits"], 1, "weighin: model 'fruits': label set fruits-labels"),
        (["--data", "pictures", "--json", "no/such/file"], 1, "--json no/such/file: folder not found"),
        (["--data", "pictures", "--mapping", "no-file"], 2, "weighin: --mapping no-file"),
        (["--data", "pictures", "--mapping", "typo"], 1, "weighin: --mapping typo: no such class in"),
        ([], 2, "Missing option '--data'"),
    ],
)
def test_wrong_options(
    tmp_path: Path,
    zoo: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    save_pictures(tmp_path / "pictures", 1)
    (tmp_path / "typo").write_text("rad = red\n")
    monkeypatch.chdir(tmp_path)
    done = evaluate(zoo, *arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.fault
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_evaluation_goes_on(tmp_path: Path, zoo: Path, how: signal.Signals) -> None:
    save_pictures(tmp_path / "pictures", 2000)
    env = environment(zoo, tmp_path / "kept", default_model="good")
    command = [sys.executable, "-m", "service", "evaluate", "--data", str(tmp_path / "pictures"), "--corrupt"]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def kept() -> int:
        lines = [path.read_bytes().count(b"\n") for path in (tmp_path / "kept/evaluations").glob("*.jsonl")]
        return sum(lines)

    until(lambda: kept() > 100 or process.poll() is not None, "a hundred pictures in the file")
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (-9 if how == signal.SIGKILL else 128 + how)
    before = kept()
    assert 100 < before < 6000
    if how != signal.SIGKILL:
        done = re.search(r"interrupted: (\d+) of 6000 pictures done and kept: repeat the command", said)
        assert done is not None, said
        assert int(done[1]) == before - 1  # the first line says what the others are for
    finished = evaluate(zoo, "--data", str(tmp_path / "pictures"), "--models", "good,reds")
    assert finished.returncode == 0, finished.stderr
    assert "colours (6000 pictures)" in finished.stdout
