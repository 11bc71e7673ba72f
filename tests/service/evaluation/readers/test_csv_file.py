"""Data sets of a CSV file."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from service.errors import InvalidDataset
from service.evaluation.dataset import Dataset
from service.evaluation.readers import csv_file
from service.evaluation.readers.read import read_dataset
from tests.service.evaluation.readers.files import pictures, written

PAIRS = [("cat/a.png", "tench, Tinca tinca"), ("cat/b.png", 'the "cat"'), ("dog/c d.png", "Ümlaut")]


def labels(data: Dataset) -> list[tuple[str, str | None]]:
    return [(picture.key, picture.class_name) for picture in data.pictures]


def problems(data: Dataset) -> list[tuple[str, str]]:
    return [(problem.key, problem.reason) for problem in data.problems]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", [None, ("path", "label"), ("Bild", "Klasse")])
def test_every_dialect_gives_the_same_labels(
    encoding: str, delimiter: str, header: tuple[str, str] | None, tmp_path: Path
) -> None:
    pictures(tmp_path, *(path for path, _ in PAIRS))
    with (tmp_path / "own.csv").open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([*([header] if header else []), *PAIRS])
    data = read_dataset(tmp_path / "own.csv")
    assert labels(data) == PAIRS
    assert not data.problems
    assert (data.kind, data.name) == ("csv", "own.csv")
    assert any("Windows-1252" in note for note in data.notes) == (encoding == "cp1252")


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\r\ncat\\a.png;x\r\n",
        "id,breed\ncat/a,x\n",
        "ID;Label\r\nCAT\\A;x\r\n\r\n",
        "label,width,path\nx,8,cat/a.png\n",
        "index,class_id,class_name,image\n1,3,x,a.png\n",
        "cat/a.png x\n",
        "./cat//a.png, x ,\r./cat/../cat/a.png,x,",
        '"C:\\Users\\me\\own\\cat\\a.png",x\n',
        "\\\\server\\share\\own\\cat\\a.png;x\n",
        "/home/me/own/cat/a.png\tx\n",
        "images/cat/a.png,x\nimages/cat/a.png,x\n",
    ],
)
def test_unusual_files_that_are_read(text: str, tmp_path: Path) -> None:
    pictures(tmp_path, "cat/a.png")
    if text.startswith("images"):
        (tmp_path / "images").symlink_to(tmp_path)
    data = read_dataset(written(tmp_path / "own.csv", text))
    assert [(Path(picture.key).name, picture.class_name) for picture in data.pictures] == [("a.png", "x")]


def test_columns_and_beginnings_that_were_chosen_are_said(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/a.png", "cat/b.png", "cat/c.png", "dog/d.png")
    text = "n,file,label\n1,D:\\own\\cat\\a.png,cat\n2,D:\\own\\cat\\b.png,cat\n3,D:\\dog\\d.png,dog\n"
    data = read_dataset(written(tmp_path / "own.csv", text))
    assert labels(data) == [("cat/a.png", "cat"), ("cat/b.png", "cat")]
    assert data.notes == (
        "read from the columns file and label",
        "paths are read without their beginning D:/own",
        "1 picture without an annotation beside the annotated ones, left out: cat/c.png",
    )
    ((key, reason),) = problems(data)
    assert key == "D:\\dog\\d.png"
    assert reason.startswith("no such file below the folder of the data set (allowed: ")


def test_rows_that_cannot_be_used_are_listed(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png", "d.png", "e.png")
    text = (
        "path,label\na.png,cat\nb.png,\n,cat\ngone.png,wolf\na.png,cat\nc.png,cat\nc.png,dog\n"
        "d.png,tench, Tinca tinca\ne.png\n../a.png,cat\n\n"
    )
    data = read_dataset(written(tmp_path / "own.csv", text))
    assert labels(data) == [("a.png", "cat")]
    assert data.class_names == ("cat", "dog", "wolf")
    assert problems(data) == [
        ("b.png", "no label in line 3"),
        ("line 4", "no path"),
        ("line 9", "3 columns (allowed: 2; quotes around ',')"),
        ("line 10", "1 columns (allowed: 2; quotes around ',')"),
        ("gone.png", "no such file, line 5"),
        ("a.png", "listed in line 2 and again in line 6; counts once"),
        ("c.png", "cat in line 7, dog in line 8; left out"),
        (
            "../a.png",
            "leads out of the folder of the data set (allowed: a path below it; --images DIR gives another "
            "folder), line 11",
        ),
    ]


def test_paths_stay_in_the_folder(tmp_path: Path) -> None:
    pictures(tmp_path, "own/a.png", "own/b.png", "secret.png")
    text = (
        f"a.png,x\n{tmp_path}/own/b.png,x\n{tmp_path}/secret.png,x\n../secret.png,x\ncat/../../secret.png,x\n"
    )
    path = written(tmp_path / "own/own.csv", text)
    data = read_dataset(path)
    assert labels(data) == [("a.png", "x"), ("b.png", "x")]
    assert [reason.split(" (")[0] for _, reason in problems(data)] == [
        "outside of the folder of the data set",
        "leads out of the folder of the data set",
        "leads out of the folder of the data set",
    ]
    on_purpose = read_dataset(path, tmp_path)
    assert [key for key, _ in labels(on_purpose)] == ["own/a.png", "own/b.png", "secret.png"]


def test_paths_begin_where_the_pictures_are(tmp_path: Path) -> None:
    pictures(tmp_path, "photos/2026/a.png", "photos/2026/b.png", "other/a.png")
    data = read_dataset(written(tmp_path / "own.csv", "a.png,x\nb.png,x\n"))
    assert [key for key, _ in labels(data)] == ["photos/2026/a.png", "photos/2026/b.png"]


def test_a_name_in_another_unicode_form_is_found(tmp_path: Path) -> None:
    pictures(tmp_path, "cafe\u0301.png")
    assert read_dataset(written(tmp_path / "own.csv", "caf\u00e9.png,x\n")).pictures


def test_names_that_differ_only_in_case_are_not_mistaken(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "A.png")
    data = read_dataset(written(tmp_path / "own.csv", "a.png,x\nA.png,y\na.PNG,z\n"))
    assert labels(data) == [("A.png", "y"), ("a.png", "x")]
    assert problems(data) == [("a.PNG", "no such file, line 3")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no rows"),
        (b"\xef\xbb\xbf\n\n", "no rows"),
        (b"a.png\nb.png\n", "one column .allowed: path and label"),
        (b"path,label\n", "no row names a picture that is there"),
        (b"path,label\ngone.png,x\n", "is there: gone.png: no such file, line 2"),
        (b"a.png,1,2,3\n", "no column is recognised as the label: a.png, 1, 2, 3"),
        (b"image,red,green\na.png,1,0\n", "no column is recognised as the label: image, red, green"),
        (b'path,label\na.png,"x\n', "line 2: unexpected end of data"),
        (b"\xff\xfea\x00.\x00p\x00n\x00g\x00,\x00x\x00\n", "not text, byte 0x"),
        (b"a.png,x\x81\n", "not text, byte 0x81 at 7 is not utf-8"),
        (b"a.png\0,x\n", "no such file, line 1"),
    ],
)
def test_files_that_are_no_data_set(content: bytes, words: str, tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    (tmp_path / "own.csv").write_bytes(content)
    with pytest.raises(InvalidDataset, match=f"^--data own.csv: .*{words}"):
        read_dataset(tmp_path / "own.csv")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "own.csv").open("wb") as file:
        file.truncate(csv_file.MOST_BYTES + 1)
    with pytest.raises(InvalidDataset, match=f"bytes .allowed: {csv_file.MOST_BYTES}"):
        read_dataset(tmp_path / "own.csv")
