"""`weighin add`: the table of facts, JSON, options, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from models.zoo.card import read_card
from service.cli.schemas import AddedModel
from service.settings import Settings
from tests.helpers.command_line import CommandResult, parsed, weighin
from tests.helpers.foreign import SIDE, save
from tests.service.conftest import running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    return save(tmp_path / "given" / "mine.onnx")


def run(tiny: Path, tmp_path: Path, *arguments: object) -> CommandResult:
    return weighin(tiny, tmp_path / "data", "add", *map(str, arguments))


@pytest.mark.slow
def test_the_table_says_where_each_fact_comes_from(tiny_models_dir: Path, tmp_path: Path, file: Path) -> None:
    ended = run(tiny_models_dir, tmp_path, file)
    assert ended.returncode == 0, ended.stderr
    rows = {line[2:].split("  ")[0].strip(): line for line in ended.stdout.splitlines()}
    assert rows["input.layout"].split()[1:3] == ["nchw", "file"]
    assert rows["input.mean"].startswith("! ")
    assert " assumed " in rows["input.mean"]
    assert not rows["input.height"].startswith("!")
    assert f"mine: added in {tmp_path / 'data' / 'models' / 'mine'}" in ended.stdout
    assert "input.mean 123.675, 116.28, 103.53 (--mean, or --range)" in ended.stderr
    assert "not stated: architecture (--architecture)" in ended.stderr


@pytest.mark.slow
def test_an_added_model_is_listed_served_and_marked(
    tiny_models_dir: Path, tmp_path: Path, file: Path, png: bytes
) -> None:
    run(tiny_models_dir, tmp_path, file, "--labels", tmp_path / "names.txt")
    listed = weighin(tiny_models_dir, tmp_path / "data", "models").stdout
    assert "mine: assumed, predictions may be wrong: input.colour_order, input.fitting" in listed
    settings = Settings(model_dirs=(tiny_models_dir,), default_model="tiny", data_dir=tmp_path / "data")
    with running(settings) as client:
        entry = client.get("/models/mine").json()
        assert {"input.mean", "architecture"} <= set(entry["assumed"])
        assert entry["card"]["provenance"]["input.layout"]["origin"] == "file"
        assert client.get("/models/tiny").json()["assumed"] == []
        prediction = client.post("/classify?model=mine&top_k=1", content=png).json()["predictions"][0]
        assert prediction["label"] in "abcde"
        assert "assumed facts" in client.get("/dashboard").text
        explained = client.post("/explain?model=mine", content=png)
        assert explained.status_code == 200, explained.text


@pytest.mark.slow
def test_the_playground_names_assumed_facts(tmp_path: Path, file: Path) -> None:
    weighin(tmp_path, tmp_path / "data", "add", str(file), "--to", str(tmp_path / "zoo"))
    settings = Settings(model_dirs=(tmp_path / "zoo",), default_model="mine", data_dir=tmp_path / "data")
    with running(settings) as client:
        page = client.get("/").text
        assert "mine: input.colour_order, input.fitting" in page
        assert "assumed; predictions may be wrong" in page


def test_json_has_the_card_and_what_is_assumed(tiny_models_dir: Path, tmp_path: Path, file: Path) -> None:
    ended = run(
        tiny_models_dir, tmp_path, file, "--json", "--preset", "torchvision", "--to", tmp_path / "zoo",
        "--labels", tmp_path / "names.txt", "--name", "other",
    )  # fmt: skip
    parsed(AddedModel, ended.stdout)
    answer = json.loads(ended.stdout)
    assert (answer["name"], answer["folder"]) == ("other", str(tmp_path / "zoo" / "other"))
    assert answer["card"]["input"]["resize"] == SIDE * 256 // 224
    assert not [path for path in answer["assumed"] if path.startswith("input.")]
    assert answer["card"] == json.loads((tmp_path / "zoo" / "other" / "card.json").read_text())


@pytest.mark.slow
def test_options_become_facts(tiny_models_dir: Path, tmp_path: Path, file: Path) -> None:
    ended = run(
        tiny_models_dir, tmp_path, file, "--to", tmp_path / "zoo", "--labels", tmp_path / "names.txt",
        "--label-set", "letters", "--mean", "0.5,0.4,0.3", "--std", "0.2", "--colour-order", "bgr",
        "--fitting", "letterbox", "--pad-value", "0", "--interpolation", "bicubic", "--architecture", "mine",
        "--block", "convolution", "--weights", "ours", "--licence", "MIT", "--multi-label",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    card = read_card(tmp_path / "zoo" / "mine")
    assert card.input.mean == pytest.approx((127.5, 102, 76.5))
    assert card.input.std == pytest.approx((51,) * 3)
    assert (card.input.colour_order, card.input.fitting, card.input.pad_value) == ("bgr", "letterbox", 0)
    assert (card.labels, card.architecture, card.source.licence) == ("letters", "mine", "MIT")
    assert card.outputs.get("multi_label") is True
    assert card.assumed == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mean", "123,117,104", "--std", "58"], "too large for pixels from 0 to 1"),
        (["--mean", "0.5"], "one is given without the other"),
        (["--mean", "a", "--std", "1"], "--mean 'a': not numbers"),
        (["--range", "0-1"], "--range '0-1': unknown (allowed: 0..255, 0..1, -1..1)"),
        (["--size", "big"], "--size 'big': not a size"),
        (["--size", "32"], "--size: input.height cannot be 32 (allowed: 16"),
        (["--images", "."], "--images"),
        (["--name", "tiny"], "model 'tiny': exists in WEIGHIN_MODEL_DIRS (allowed: another --name)"),
    ],
)
def test_a_refusal_is_one_line(
    options: list[str], words: str, tiny_models_dir: Path, tmp_path: Path, file: Path
) -> None:
    ended = run(tiny_models_dir, tmp_path, file, *options)
    assert ended.returncode == 1
    assert ended.stderr.startswith("weighin: ")
    assert len(ended.stderr.splitlines()) == 1
    assert words in ended.stderr
    assert not list((tmp_path / "data").rglob("*"))[1:]


@pytest.mark.slow
def test_a_range_sets_mean_and_std(tiny_models_dir: Path, tmp_path: Path, file: Path) -> None:
    for name, given, mean, std in (
        ("r", "0..255", 0, 1),
        ("o", "0..1", 0, 255),
        ("s", "-1..1", 127.5, 127.5),
    ):
        ended = run(tiny_models_dir, tmp_path, file, "--range", given, "--name", name)
        assert ended.returncode == 0, ended.stderr
        spec = read_card(tmp_path / "data" / "models" / name).input
        assert (spec.mean, spec.std) == ((mean,) * 3, (std,) * 3)


def test_a_missing_folder_of_models_is_no_reason_not_to_add(
    tiny_models_dir: Path, tmp_path: Path, file: Path
) -> None:
    data, dirs = tmp_path / "data", f"{tmp_path / 'missing'}{os.pathsep}{tiny_models_dir}"
    ended = weighin(tiny_models_dir, data, "add", str(file), model_dirs=dirs)
    assert ended.returncode == 0, ended.stderr
    ended = weighin(tiny_models_dir, data, "add", str(file), "--name", "tiny", model_dirs=dirs)
    assert ended.returncode != 0
    assert "model 'tiny': exists in WEIGHIN_MODEL_DIRS" in ended.stderr


def test_a_name_that_an_earlier_folder_has_is_refused_with_to(
    tiny_models_dir: Path, tmp_path: Path, file: Path
) -> None:
    later, data = tmp_path / "later", tmp_path / "data"
    later.mkdir()
    dirs = f"{tiny_models_dir}{os.pathsep}{later}"
    arguments = ("add", str(file), "--name", "tiny", "--to")
    ended = weighin(tiny_models_dir, data, *arguments, str(later), model_dirs=dirs)
    assert ended.returncode != 0
    assert "model 'tiny': exists in WEIGHIN_MODEL_DIRS" in ended.stderr
    assert list(later.iterdir()) == []
    elsewhere = weighin(tiny_models_dir, data, *arguments, str(tmp_path / "zoo"), model_dirs=dirs)
    assert elsewhere.returncode == 0, elsewhere.stderr
