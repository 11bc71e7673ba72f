"""`weighin gate`: what passes, fails and cannot be compared; files, exit codes, interruptions."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from service.cli.gate.result import GateResult
from tests.helpers.command_line import CommandResult, parsed, weighin
from tests.helpers.detectors import BOX, CLASSES, save_detector
from tests.helpers.detectors import SIDE as DETECTOR_SIDE
from tests.helpers.forked import CLOSED, ForkedProcess, run_forked
from tests.helpers.networks import SIDE, save_network
from tests.helpers.process import environment
from tests.helpers.processes import children, running
from tests.helpers.until import until
from tests.service.evaluation.colours import png, save_colours, save_pictures, save_reds


@pytest.fixture(autouse=True)
def _no_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Return a folder of models: good, one that is as good, one that says red, others."""
    zoo = tmp_path / "zoo"
    save_colours(zoo, "good")
    save_colours(zoo, "as-good", weights={"head.weight": np.eye(3, dtype=np.float32) * 4.5})
    save_reds(zoo)
    return zoo


def gate(zoo: Path, *arguments: object, **settings: object) -> CommandResult:
    given = map(str, arguments)
    return weighin(zoo, zoo.parent / "data", "gate", *given, default_model="good", **settings)


def last_line(done: CommandResult) -> str:
    """Return the line that says the outcome: of standard error if standard output has a document, or none."""
    text = done.stderr if done.stdout.startswith(("{", "<")) or not done.stdout else done.stdout
    return text.splitlines()[-1]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a folder of 180 labelled pictures."""
    save_pictures(tmp_path / "pictures", 60)
    return tmp_path / "pictures"


@pytest.fixture
def few_pictures(tmp_path: Path) -> None:
    """Write a folder `pictures` of three, for what is decided before they are evaluated."""
    save_pictures(tmp_path / "pictures", 1)


@pytest.mark.slow
def test_broken_accuracy_fails_before_latency_is_measured(tmp_path: Path, zoo: Path, pictures: Path) -> None:
    file, junit = tmp_path / "out.json", tmp_path / "out.xml"
    done = gate(zoo, "--base", "good", "--new", "reds", "--data", pictures, "--json", file, "--junit", junit)
    assert done.returncode == 1, done.stderr
    result = parsed(GateResult, file.read_text())
    assert result.outcome == "fail"
    assert result.accuracy is not None
    assert result.accuracy.n == 180
    assert result.accuracy.low > 0.005
    assert [check.status for check in result.checks] == ["skipped", "failed", "skipped"]
    assert result.base is not None
    assert (result.base.given, result.base.kind) == ("good", "model")
    assert last_line(done).startswith("fail: accuracy loss +")
    assert result.sentence in done.stdout.splitlines()
    (suite,) = ElementTree.parse(junit).getroot()
    assert suite.get("failures") == "1"


@pytest.mark.slow
def test_summary_of_a_job_is_appended(
    tmp_path: Path, zoo: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("earlier steps\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    done = gate(zoo, "--base", "good", "--new", "reds", "--data", pictures, "--json", "-")
    assert done.returncode == 1
    text = summary.read_text()
    assert text.startswith("earlier steps\n### weighin gate: ❌ fail\n")
    assert "| accuracy | ❌ |" in text
    assert parsed(GateResult, done.stdout).outcome == "fail"
    assert last_line(done).startswith("fail: accuracy")


def test_no_base_is_a_first_run_and_says_so(tmp_path: Path, zoo: Path) -> None:
    junit = tmp_path / "out.xml"
    done = gate(zoo, "--base", tmp_path / "main/model.onnx", "--new", "good", "--junit", junit)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"pass (nothing compared): first run: there is no base at {tmp_path}/main/model.onnx, so nothing was "
        "compared"
    ]
    (suite,) = ElementTree.parse(junit).getroot()
    assert suite.get("skipped") == suite.get("tests") == "3"


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        ("zoo/good/model.onnx/x.onnx", "cannot be read: not a directory"),
        ("gone/before.onnx", "its folder gone is a link to nothing (allowed: a file)"),
        ("gone", "a link to nothing (allowed: a file)"),
        ("./circle", "cannot be read: too many levels of symbolic links"),
        (f"{'x' * 300}.onnx", "cannot be read: file name too long"),
    ],
)
def test_only_a_base_that_is_not_there_is_a_first_run(
    tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch, base: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gone").symlink_to("nowhere")
    Path("circle").symlink_to("circle")
    done = gate(zoo, "--base", base, "--new", "good")
    assert done.returncode == 2
    assert last_line(done) == f"cannot say: --base {base}: {reason}"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--data", "nowhere"], "--data nowhere: no such file or folder"),
        (["--data", "pictures", "--mapping", "nowhere"], "--mapping nowhere: "),
        (["--mapping", "nowhere"], "--mapping and --images: only with --data"),
    ],
)
@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize("base", ["none.onnx", "copy"])
def test_pictures_are_checked_although_nothing_is_compared(
    tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], reason: str, base: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(zoo / "good", "copy")
    done = gate(zoo, "--base", base, "--new", "good", *options)
    assert done.returncode == 2
    assert last_line(done).startswith(f"cannot say: {reason}")


def test_a_first_run_of_a_broken_network_is_no_pass(tmp_path: Path, zoo: Path) -> None:
    (zoo / "good/model.onnx").write_bytes(b"broken")
    done = gate(zoo, "--base", tmp_path / "main/model.onnx", "--new", "good")
    assert done.returncode == 2
    assert last_line(done).startswith("cannot say: --new good: cannot be used: its file model.onnx is not")


def test_identical_copies_pass_without_measuring(tmp_path: Path, zoo: Path) -> None:
    shutil.copytree(zoo / "good", tmp_path / "copy")
    done = gate(zoo, "--base", "good", "--new", tmp_path / "copy")
    assert done.returncode == 0, done.stderr
    assert last_line(done) == (
        "pass (nothing measured): both files are identical, with the same inputs, outputs and labels, so "
        "nothing was measured"
    )


@pytest.mark.slow
def test_equal_files_whose_cards_differ_are_evaluated(tmp_path: Path, zoo: Path, pictures: Path) -> None:
    """Another mean makes all pictures look red, though the file is the same."""
    folder = shutil.copytree(zoo / "good", tmp_path / "copy")
    card = json.loads((folder / "card.json").read_text())
    card["input"]["mean"] = [0.0, 127.0, 127.0]
    (folder / "card.json").write_text(json.dumps(card))
    done = gate(zoo, "--base", "good", "--new", folder, "--data", pictures)
    assert done.returncode == 1, done.stderr
    assert last_line(done).startswith("fail: accuracy loss +")


def test_file_beside_its_card_is_that_folder(tmp_path: Path, zoo: Path) -> None:
    file = tmp_path / "out.json"
    done = gate(zoo, "--base", tmp_path / "none.onnx", "--new", zoo / "good/model.onnx", "--json", file)
    assert done.returncode == 0, done.stderr
    new = parsed(GateResult, file.read_text()).new
    assert new is not None
    assert (new.kind, new.notes) == ("folder", [])


@pytest.mark.slow
def test_file_without_a_card_is_described_and_its_assumptions_are_shown(tmp_path: Path, zoo: Path) -> None:
    (tmp_path / "new").mkdir()
    shutil.copy(zoo / "good/model.onnx", tmp_path / "new/mine.onnx")
    file = tmp_path / "out.json"
    done = gate(zoo, "--base", tmp_path / "none.onnx", "--new", tmp_path / "new/mine.onnx", "--json", file)
    assert done.returncode == 0, done.stderr
    new = parsed(GateResult, file.read_text()).new
    assert new is not None
    assert new.kind == "file"
    assert any("assumed" in note and "input.mean" in note for note in new.notes)
    assert "new: assumed, predictions may be wrong: " in done.stderr


def test_labels_are_not_borrowed_from_the_base(tmp_path: Path, zoo: Path) -> None:
    (tmp_path / "new").mkdir()
    shutil.copy(zoo / "good/model.onnx", tmp_path / "new/mine.onnx")
    done = gate(zoo, "--base", "good", "--new", tmp_path / "new/mine.onnx")
    assert done.returncode == 2
    assert "unlike labels: class 0 is 'red' in base, " in last_line(done)


@pytest.fixture
def other(zoo: Path) -> None:
    """Add networks that cannot be compared with `good`."""
    save_network(zoo, "fruits", classes=3, names=("apple", "pear", "plum"))
    save_network(zoo, "ten")
    save_detector(zoo, "detector")
    card = json.loads((save_colours(zoo, "large") / "card.json").read_text())
    card["input"] |= {"height": 2 * SIDE, "width": 2 * SIDE, "resize": 2 * SIDE}
    model = onnx.load(zoo / "large/model.onnx")
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = 2 * SIDE
    write_with_card(zoo / "large", model, card)


def write_with_card(folder: Path, model: onnx.ModelProto, card: dict[str, object]) -> None:
    """Write a model file and the card that describes it."""
    content = model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    card["file"] |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}  # type: ignore[operator]
    (folder / "card.json").write_text(json.dumps(card))


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize(
    ("new", "reason"),
    [
        ("good", "--base and --new: both are good (allowed: two networks)"),
        ("zoo/good", "--base and --new: both are zoo/good (allowed: two networks)"),
        ("zoo/good/model.onnx", "--base and --new: both are zoo/good/model.onnx (allowed: two networks)"),
        ("./to-good.onnx", "--base and --new: both are ./to-good.onnx (allowed: two networks)"),
        ("fruits", "--base and --new: unlike labels: class 0 is 'red' in base, 'apple' in new"),
        ("ten", "--base and --new: unlike labels: base has 3 classes, new 10"),
        ("large", "--base and --new: unlike inputs: base takes 3 x 16 x 16, new 3 x 32 x 32"),
        ("detector", "--base and --new: unlike tasks: base classifies images, new detects objects"),
        ("god", "model 'god': unknown (allowed: "),
        ("none.onnx", "--new none.onnx: no such file or folder"),
        ("link.onnx", "--new link.onnx: a link to nothing"),
        ("./text.onnx", "--new ./text.onnx: text.onnx: not an ONNX file"),
        ("empty", "--new empty: cannot be used: it has no card.json"),
        ("", "--new: empty (allowed: "),
    ],
)
def test_what_cannot_be_compared(
    tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch, new: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.onnx").write_text("no network")
    Path("empty").mkdir()
    Path("link.onnx").symlink_to("nowhere")
    Path("to-good.onnx").symlink_to("zoo/good/model.onnx")
    done = gate(zoo, "--base", "good", "--new", new, "--junit", "out.xml", "--json", "out.json")
    assert done.returncode == 2
    assert last_line(done).startswith(f"cannot say: {reason}")
    assert parsed(GateResult, Path("out.json").read_text()).outcome == "undecided"
    (suite,) = ElementTree.parse("out.xml").getroot()
    assert suite.get("errors") == "1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--max-slower", "0.03"], "--max-slower '0.03': not a limit (allowed: 0% to 1000%, e.g. 3%)"),
        (["--max-slower", "-3%"], "--max-slower '-3%': not a limit"),
        (["--max-loss", "0.5%"], "--max-loss '0.5%': not a limit (allowed: 0pt to 100pt, e.g. 0.5pt)"),
        (["--max-loss", "nan"], "--max-loss 'nan': not a limit"),
        (["--time-limit", "300"], "--time-limit '300': not a time (allowed: above 0s to 24h, e.g. 90s"),
        (["--time-limit", "0s"], "--time-limit '0s': not a time"),
        (["--data", "nowhere"], "--data nowhere: no such file or folder"),
        (["--junit", "none/out.xml"], "--junit none/out.xml: folder not found"),
        (["--junit", "out", "--json", "out"], "--junit out: is the file of --json too"),
        (["--junit", "out", "--json", "zoo/../out"], "--junit out: is the file of --json too"),
        (["--junit", "old", "--json", "link"], "--junit old: is the file of --json too"),
        (["--junit", "old", "--json", "hard"], "--junit old: is the file of --json too"),
        (["--junit", "zoo/good"], "--junit zoo/good: is a folder"),
    ],
)
def test_wrong_options(
    tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old").write_text("")
    Path("link").symlink_to("old")
    Path("hard").hardlink_to("old")
    done = gate(zoo, "--base", "good", "--new", "reds", *arguments)
    assert done.returncode == 2
    assert last_line(done).startswith(f"cannot say: {reason}")


def test_missing_option_is_exit_2(zoo: Path) -> None:
    assert gate(zoo, "--base", "good").returncode == 2


def test_output_that_is_an_input_is_refused(zoo: Path) -> None:
    file = zoo / "good/model.onnx"
    done = gate(zoo, "--base", file, "--new", "reds", "--junit", file)
    assert done.returncode == 2
    assert last_line(done).endswith("is a file of --base (allowed: another file)")


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize(
    ("base", "data", "output"),
    [
        ("zoo/good", None, "zoo/good/model.onnx"),
        ("zoo/good/model.onnx", None, "zoo/good/card.json"),
        ("good", None, "zoo/good/card.json"),
        ("good", None, "zoo/good/labels.txt"),
        ("zoo/good", None, "link"),
        ("linked", None, "zoo/reds/model.onnx"),
        ("good", "pictures", "pictures/red/0.png"),
        ("good", "labels.csv", "labels.csv"),
        ("good", "labels.csv", "pictures/red/0.png"),
    ],
)
def test_no_output_replaces_what_is_read(
    tmp_path: Path,
    zoo: Path,
    monkeypatch: pytest.MonkeyPatch,
    base: str,
    data: str | None,
    output: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("labels.csv").write_text("path,label\npictures/red/0.png,red\n")
    Path("link").symlink_to("zoo/good/card.json")
    shutil.copytree(zoo / "reds", "linked")
    Path("linked/model.onnx").unlink()
    Path("linked/model.onnx").symlink_to(zoo / "reds/model.onnx")
    before = Path(output).read_bytes()
    options = [] if data is None else ["--data", data]
    for option in ("--json", "--junit"):
        done = gate(zoo, "--base", base, "--new", "as-good", *options, option, output)
        assert done.returncode == 2
        assert last_line(done).startswith(f"cannot say: {option} {output}: is a")
    assert Path(output).read_bytes() == before


def test_outputs_of_an_earlier_run_beside_the_files_are_replaced(
    tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(zoo / "good/model.onnx", "new.onnx")
    Path("out.json").write_text("of an earlier run")
    done = gate(zoo, "--base", "none.onnx", "--new", "new.onnx", "--json", "out.json")
    assert done.returncode == 0, done.stderr
    assert parsed(GateResult, Path("out.json").read_text()).outcome == "pass"


@pytest.mark.parametrize(
    "arguments", [["--max-slower", "nonsense"], ["--json", "none/out.json"], ["--data", "nowhere"]]
)
def test_error_before_the_run_replaces_the_report_of_an_earlier_one(
    tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out.xml").write_text('<testsuites name="weighin gate" errors="0"/>')
    done = gate(zoo, "--base", "good", "--new", "reds", "--junit", "out.xml", *arguments)
    assert done.returncode == 2
    root = ElementTree.parse("out.xml").getroot()
    assert root.get("errors") == "1"
    error = root.find(".//error")
    assert error is not None
    assert last_line(done) == f"cannot say: {error.get('message')}"


def test_wrong_limits_are_null_in_the_document(tmp_path: Path, zoo: Path) -> None:
    file = tmp_path / "out.json"
    assert gate(zoo, "--base", "a", "--new", "b", "--max-loss", "1", "--json", file).returncode == 2
    result = parsed(GateResult, file.read_text())
    assert (result.exit_code, result.limits) == (2, None)


@pytest.mark.parametrize(
    ("data", "mapping", "reason"),
    [
        ("nowhere", None, "--data nowhere: no such file or folder"),
        ("pictures", "mapping.txt", "--mapping mapping.txt: no such class in pictures: pear"),
        ("unreadable", None, ""),
    ],
)
@pytest.mark.usefixtures("few_pictures")
def test_error_of_the_pictures_is_one_of_the_accuracy(
    tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch, data: str, mapping: str | None, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mapping.txt").write_text("pear = red\n")
    for name in ("red", "green"):
        Path("unreadable", name).mkdir(parents=True)
        Path("unreadable", name, "0.png").write_text("no picture")
    options = [] if mapping is None else ["--mapping", mapping]
    done = gate(zoo, "--base", "good", "--new", "reds", "--data", data, *options, "--json", "out.json")
    assert done.returncode == 2
    latency, accuracy, control = parsed(GateResult, Path("out.json").read_text()).checks
    assert (accuracy.name, accuracy.status) == ("accuracy", "undecided")
    assert accuracy.sentence.startswith(reason)
    assert (
        (latency.status, latency.sentence) == (control.status, control.sentence) == ("skipped", "not reached")
    )


@pytest.mark.slow
def test_mapping_and_unreadable_pictures(tmp_path: Path, zoo: Path, pictures: Path) -> None:
    (pictures / "red").rename(pictures / "rot")
    (pictures / "rot/text.png").write_text("no picture")
    (tmp_path / "mapping.txt").write_text("rot = red\n")
    file = tmp_path / "out.json"
    done = gate(
        zoo, "--base", "good", "--new", "reds", "--data", pictures, "--mapping", tmp_path / "mapping.txt",
        "--json", file,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    result = parsed(GateResult, file.read_text())
    assert result.accuracy is not None
    assert result.accuracy.n == 180
    (note,) = result.notes
    assert note.startswith("not counted, cannot be read: 1 picture, rot/text.png: ")


@pytest.mark.slow
def test_classes_that_are_no_labels_are_not_dropped_silently(
    tmp_path: Path, zoo: Path, pictures: Path
) -> None:
    """A folder that was renamed would let the gate pass on the others."""
    (pictures / "red").rename(pictures / "rot")
    file = tmp_path / "out.json"
    done = gate(
        zoo, "--base", "good", "--new", "as-good", "--data", pictures, "--time-limit", "0.1s", "--json", file
    )
    assert done.returncode == 2
    check = parsed(GateResult, file.read_text()).checks[1]
    assert (check.name, check.status) == ("accuracy", "undecided")
    assert check.sentence.startswith(
        "is not judged, rot with 60 pictures of 180: no label of the networks (rot: no label of colours"
    )
    assert check.sentence.endswith(
        "give --mapping FILE with lines CLASS = LABEL, or CLASS = - to leave a class out"
    )
    assert check.sentence in last_line(done)


@pytest.mark.slow
def test_classes_that_the_mapping_leaves_out_are_counted(tmp_path: Path, zoo: Path, pictures: Path) -> None:
    (pictures / "red").rename(pictures / "rot")
    (tmp_path / "mapping.txt").write_text("rot = -\n")
    file, junit = tmp_path / "out.json", tmp_path / "out.xml"
    done = gate(
        zoo, "--base", "good", "--new", "reds", "--data", pictures, "--mapping", tmp_path / "mapping.txt",
        "--json", file, "--junit", junit,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    result = parsed(GateResult, file.read_text())
    assert result.accuracy is not None
    assert (result.accuracy.n, result.accuracy.pictures) == (120, 180)
    assert "on 120 of 180 pictures" in last_line(done)
    note = "not counted, left out by the mapping: 60 pictures of rot"
    assert note in result.notes
    assert note in done.stderr


@pytest.fixture
def bare(tmp_path: Path, zoo: Path) -> Path:
    """Return a folder of ONNX files without cards, each beside the labels."""
    for name in ("good", "as-good", "reds"):
        (tmp_path / "bare" / name).mkdir(parents=True)
        shutil.copy(zoo / name / "model.onnx", tmp_path / f"bare/{name}/net.onnx")
        (tmp_path / f"bare/{name}/labels.txt").write_text("red\ngreen\nblue\n")
    return tmp_path / "bare"


@pytest.mark.slow
@pytest.mark.parametrize("assumed", ["base", "new"])
def test_accuracy_is_not_judged_on_what_is_assumed_of_one_network(
    tmp_path: Path, zoo: Path, pictures: Path, bare: Path, assumed: str
) -> None:
    """A wrong assumption on the base would hide a loss; one on the new network would feign one."""
    networks: dict[str, object] = {"base": "good", "new": "as-good"}
    networks[assumed] = bare / f"{networks[assumed]}/net.onnx"
    file = tmp_path / "out.json"
    done = gate(
        zoo, "--base", networks["base"], "--new", networks["new"], "--data", pictures,
        "--time-limit", "0.1s", "--json", file,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout
    result = parsed(GateResult, file.read_text())
    assert result.accuracy is None
    check = result.checks[1]
    assert check.status == "undecided"
    assert check.sentence.startswith("is not judged, it would rest on what is only assumed: ")
    assert f"of {assumed}" in check.sentence
    assert "input.mean" in check.sentence
    assert f"give --{assumed} as a folder whose card.json states these facts" in check.sentence


@pytest.mark.slow
def test_accuracy_is_judged_on_what_is_assumed_of_both_alike(
    tmp_path: Path, zoo: Path, pictures: Path, bare: Path
) -> None:
    file = tmp_path / "out.json"
    done = gate(
        zoo, "--base", bare / "good/net.onnx", "--new", bare / "reds/net.onnx", "--data", pictures,
        "--json", file,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    (note,) = parsed(GateResult, file.read_text()).notes
    assert note.startswith("accuracy rests on what is assumed of both alike: ")
    assert "input.mean" in note


def save_squares(folder: Path, count: int) -> Path:
    """Write pictures of one square each, in turn red, green and blue, and return their COCO file."""
    folder.mkdir()
    images, annotations = [], []
    for number in range(count):
        pixels = np.full((DETECTOR_SIDE, DETECTOR_SIDE, 3), 100, np.uint8)
        left, top = 4 + 4 * (number % 10), 8 + 4 * (number // 10)
        pixels[top : top + BOX, left : left + BOX] = np.eye(3, dtype=np.uint8)[number % 3] * 255
        (folder / f"{number}.png").write_bytes(png(pixels))
        size = {"width": DETECTOR_SIDE, "height": DETECTOR_SIDE}
        images.append({"id": number, "file_name": f"{number}.png", **size})
        annotations.append(
            {"id": number, "image_id": number, "category_id": number % 3, "bbox": [left, top, BOX, BOX]}
        )
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "squares.json").write_text(json.dumps(document))
    return folder / "squares.json"


@pytest.mark.slow
def test_worse_detector_fails(tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    save_detector(zoo, "good")
    save_detector(zoo, "blind", input={"mean": [200.0, 0.0, 0.0]})
    data = save_squares(tmp_path / "squares", 60)
    file = tmp_path / "out.json"
    done = gate(zoo, "--base", "good", "--new", "blind", "--data", data, "--json", file)
    assert done.returncode == 1, done.stderr
    accuracy = parsed(GateResult, file.read_text()).accuracy
    assert accuracy is not None
    assert (accuracy.only_base, accuracy.only_new) == (None, None)
    assert accuracy.low > 0.005


def broken(name: str) -> int:
    """Return a descriptor that cannot be written to: CLOSED, a pipe whose reader is gone, or a device."""
    if name == "closed":
        return CLOSED
    if name == "pipe":
        reader, writer = os.pipe()
        os.close(reader)
        return writer
    return os.open(name, os.O_WRONLY)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize(
    ("options", "stdout", "stderr", "code"),
    [
        ("--base DIR/none.onnx --new good --json DIR/out.json", None, "/dev/full", 0),
        ("--base DIR/none.onnx --new good --json DIR/out.json", None, "closed", 0),
        ("--base DIR/none.onnx --new good --json DIR/out.json", "pipe", None, 2),
        ("--base DIR/none.onnx --new good --json - --junit DIR/out.xml", "/dev/full", None, 2),
        ("--base good --new reds --data DIR/pictures --json DIR/out.json", "/dev/full", "/dev/full", 1),
    ],
)
def test_exit_code_without_working_output(
    tmp_path: Path, zoo: Path, options: str, stdout: str | None, stderr: str | None, code: int
) -> None:
    """A pass whose report is lost is none; losing anything else changes nothing."""
    streams = [None if name is None else broken(name) for name in (stdout, stderr)]
    try:
        done = run_forked(
            ["gate", *options.replace("DIR", str(tmp_path)).split()],
            environment(zoo, tmp_path / "data", default_model="good"),
            streams[0],
            stderr=streams[1],
        )
    finally:
        for stream in streams:
            if stream is not None and stream != CLOSED:
                os.close(stream)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    if "out.json" in options:
        assert parsed(GateResult, (tmp_path / "out.json").read_text()).exit_code == code
    else:
        assert ElementTree.parse(tmp_path / "out.xml").getroot().get("errors") == "1"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_exit_code_of_an_interpreter_without_working_output(tmp_path: Path, zoo: Path) -> None:
    """What Python itself does with lost output when it ends changes nothing either."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "service", "gate", "--base", "none.onnx", "--new", "good"],
            env=environment(zoo, tmp_path / "data", default_model="good"),
            stdout=full,
            stderr=full,
            check=False,
        )
    assert done.returncode == 2


def test_summary_that_is_a_device(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", os.devnull)
    done = gate(zoo, "--base", "none.onnx", "--new", "good")
    assert done.returncode == 0, done.stderr


def test_summary_that_is_a_pipe(tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pipe))
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        done = gate(zoo, "--base", "none.onnx", "--new", "good")
        out, _ = reader.communicate(timeout=30)
    assert done.returncode == 0, done.stderr
    assert out.startswith("### weighin gate: ➖ pass (nothing compared)\n")
    assert "| check |" not in out


@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="needs /proc")
def test_summary_in_a_folder_that_takes_no_new_files(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the process is a file that can be written to, and its folder cannot."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/proc/self/comm")
    name = Path("/proc/self/comm").read_text()
    try:
        done = gate(zoo, "--base", "none.onnx", "--new", "good")
    finally:
        Path("/proc/self/comm").write_text(name)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("few_pictures")
def test_summary_that_cannot_be_written_is_refused_before_measuring(
    tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody may write to a program while it runs, not even root."""
    program = Path(shutil.copy(shutil.which("cat") or "", tmp_path / "program"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(program))
    with subprocess.Popen([program], stdin=subprocess.PIPE) as running_program:
        done = gate(zoo, "--base", "good", "--new", "reds", "--data", tmp_path / "pictures")
        running_program.communicate()
    assert done.returncode == 2
    assert last_line(done) == (
        f"cannot say: GITHUB_STEP_SUMMARY {program}: cannot be written: text file busy"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("option", ["--json", "--junit"])
def test_every_report_says_that_another_is_lost(
    tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    files = {"--json": tmp_path / "out.json", "--junit": tmp_path / "out.xml"} | {option: Path("/dev/full")}
    options = [str(each) for file in files.items() for each in file]
    done = gate(zoo, "--base", "none.onnx", "--new", "good", *options)
    assert done.returncode == 2
    reason = "cannot say: it would pass, but not every report could be written"
    assert last_line(done) == reason
    if option == "--junit":
        result = parsed(GateResult, files["--json"].read_text())
        assert (result.outcome, result.exit_code, result.sentence) == ("undecided", 2, reason)
    else:
        error = ElementTree.parse(files["--junit"]).getroot().find(".//error")
        assert error is not None
        assert error.get("message") == reason
    assert summary.read_text().startswith("### weighin gate: ❔ cannot say\n")


def test_characters_that_xml_forbids_in_a_name(tmp_path: Path, zoo: Path) -> None:
    junit = tmp_path / "out.xml"
    done = gate(zoo, "--base", tmp_path / "x\uffff\ufffe/none.onnx", "--new", "good", "--junit", junit)
    assert done.returncode == 0, done.stderr
    skipped = ElementTree.parse(junit).getroot().find(".//skipped")
    assert skipped is not None
    assert r"x\uffff\ufffe/none.onnx" in skipped.get("message", "")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_lost_report_is_no_pass(tmp_path: Path, zoo: Path) -> None:
    """A limit on the size of files stands for the full disk of the summary: it cuts the write off."""
    summary = tmp_path / "summary.md"
    summary.write_text("x" * 100_000)
    env = environment(zoo, tmp_path / "data", default_model="good") | {"GITHUB_STEP_SUMMARY": str(summary)}
    command = ["gate", "--base", "none.onnx", "--new", "good", "--junit", "/dev/full"]
    done = run_forked(command, env, largest_file=100_100)
    assert done.returncode == 2, done.stderr
    assert done.stderr.decode().splitlines() == [
        "weighin: --junit /dev/full: cannot be written: no space left on device",
        f"weighin: GITHUB_STEP_SUMMARY {summary}: cannot be written: file too large",
    ]
    assert done.stdout.decode().splitlines()[-1] == (
        "cannot say: it would pass, but not every report could be written"
    )
    assert summary.stat().st_size == 100_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["summary.md", "zoo"]


@pytest.mark.slow
def test_time_limit_ends_it_without_a_verdict(tmp_path: Path, zoo: Path) -> None:
    file = tmp_path / "out.json"
    done = gate(zoo, "--base", "good", "--new", "as-good", "--time-limit", "0.1s", "--json", file)
    assert done.returncode == 2, done.stderr
    assert re.search(
        "no launch was completed: the time limit of 0.1 s is over; a decision would take 3 launches at least"
        r", (about \d+ s|and the first had not begun to measure after \d+\.\d s)$",
        last_line(done),
    )
    assert [check.status for check in parsed(GateResult, file.read_text()).checks] == [
        "undecided", "skipped", "skipped",
    ]  # fmt: skip


@pytest.mark.slow
def test_time_limit_that_is_too_short_for_the_pictures_says_which_would_do(tmp_path: Path, zoo: Path) -> None:
    pictures = tmp_path / "pictures"
    save_pictures(pictures, 150)
    file = tmp_path / "out.json"
    done = gate(
        zoo, "--base", "good", "--new", "reds", "--data", pictures, "--time-limit", "0.1s", "--json", file
    )
    assert done.returncode == 2, done.stderr
    check = parsed(GateResult, file.read_text()).checks[1]
    found = re.fullmatch(
        r"is not known, only (\d+) of 450 pictures were evaluated: the share of the time limit for accuracy, "
        r"70%, is over; all would take about \d+ s, so give about --time-limit (\d+)s",
        check.sentence,
    )
    assert found is not None
    assert 0 < int(found[1]) < 450
    again = gate(zoo, "--base", "good", "--new", "reds", "--data", pictures, "--time-limit", f"{found[2]}0s")
    assert again.returncode == 1, again.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_is_no_verdict_and_leaves_no_process(
    tmp_path: Path, zoo: Path, number: signal.Signals
) -> None:
    junit = tmp_path / "out.xml"
    command = ["gate", "--base", "good", "--new", "as-good", "--junit", str(junit)]
    workers: set[int] = set()
    with tempfile.TemporaryFile() as out:
        variables = environment(zoo, tmp_path / "data", default_model="good")
        process = ForkedProcess(command, variables, out.fileno())

        def measures() -> bool:
            workers.update(pid for pid in children(process.pid) if b"bench.measure.worker" in command_of(pid))
            return bool(workers)

        assert process.stderr is not None
        with process.stderr:
            try:
                until(measures, "a worker of the benchmark")
                process.send_signal(number)
                process.stderr.read()
                code = process.wait(30)
            finally:
                if process.poll() is None:
                    process.kill()
        out.seek(0)
        lines = out.read().decode().splitlines()
    assert code == 2
    assert lines[-1] == "cannot say: latency is not known, no launch was completed: it was interrupted"
    assert ElementTree.parse(junit).getroot().get("errors") == "1"
    assert not any(map(running, workers))


def command_of(pid: int) -> bytes:
    """Return the command line of a process; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def save_multiplying(zoo: Path, name: str, products: int, seed: int = 0) -> Path:
    """Write a network as `save_colours` that also multiplies a 256 x 256 matrix `products` times."""
    folder = save_colours(zoo, name)
    model = onnx.load(folder / "model.onnx")
    square = np.random.default_rng(seed).normal(0, 0.06, (256, 256)).astype(np.float32)
    start = np.ones((256, 256), np.float32)
    graph = model.graph
    graph.initializer.extend(
        [
            numpy_helper.from_array(square, "square"),
            numpy_helper.from_array(start, "start"),
            numpy_helper.from_array(np.zeros(1, np.float32), "none"),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("ReduceMean", ["image"], ["grey"], keepdims=0),
            helper.make_node("Add", ["start", "grey"], ["product0"]),
            *(
                helper.make_node("MatMul", [f"product{number}", "square"], [f"product{number + 1}"])
                for number in range(products)
            ),
            helper.make_node("ReduceMean", [f"product{products}"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "none"], ["nothing"]),
        ]
    )
    for node in graph.node:
        if "logits" in node.output:
            node.output[0] = "without"
    graph.node.append(helper.make_node("Add", ["without", "nothing"], ["logits"]))
    write_with_card(folder, model, json.loads((folder / "card.json").read_text()))
    return folder


@pytest.mark.alone
@pytest.mark.fault
@pytest.mark.parametrize(("products", "limit", "code"), [(6, "20%", 0), (9, "3%", 1)])
def test_whole_gate(tmp_path: Path, zoo: Path, pictures: Path, products: int, limit: str, code: int) -> None:
    """A network with the same work passes; one with half as much again fails.

    The limits are far off, so that a machine that is not quiet decides this too.
    """
    save_multiplying(zoo, "before", 6)
    save_multiplying(zoo, "after", products, seed=1)
    file = tmp_path / "out.json"
    done = gate(
        zoo, "--base", "before", "--new", "after", "--data", pictures, "--max-loss", "3pt",
        "--max-slower", limit, "--json", file,
    )  # fmt: skip
    result = parsed(GateResult, file.read_text())
    assert done.returncode == code, done.stdout
    assert result.latency is not None
    assert result.latency.launches >= 3
    assert result.latency.low is not None
    assert result.latency.high is not None
    assert result.latency.low < result.latency.ratio < result.latency.high
    assert not result.latency.void
