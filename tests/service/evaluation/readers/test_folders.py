"""Data sets of a folder per class."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.errors import InvalidDataset
from service.evaluation.dataset import Problem
from service.evaluation.readers.read import read_dataset
from tests.service.evaluation.readers.files import pictures, written


def test_each_picture_has_the_class_of_its_folder(tmp_path: Path) -> None:
    pictures(
        tmp_path / "own", "cat/b.png", "cat/day 2/a.JPG", "dog/no-suffix.png", "dog/z.webp", "bird/ä.png"
    )
    (tmp_path / "own/dog/no-suffix.png").rename(tmp_path / "own/dog/no suffix")
    data = read_dataset(tmp_path / "own")
    assert (data.name, data.kind, data.task) == ("own", "folder", "image-classification")
    assert data.class_names == ("bird", "cat", "dog")
    assert [(picture.key, picture.class_name) for picture in data.pictures] == [
        ("bird/ä.png", "bird"),
        ("cat/b.png", "cat"),
        ("cat/day 2/a.JPG", "cat"),
        ("dog/no suffix", "dog"),
        ("dog/z.webp", "dog"),
    ]
    for picture in data.pictures:
        assert picture.path == tmp_path / "own" / picture.key
        assert (picture.size, picture.mtime_ns) == (
            picture.path.stat().st_size,
            picture.path.stat().st_mtime_ns,
        )
    assert not data.problems
    assert data.notes == ()
    assert data.counts() == {"bird": 1, "cat": 2, "dog": 2}


def test_left_behind_files_are_ignored_and_others_counted(tmp_path: Path) -> None:
    names = ("cat/a.png", "cat/b.png", "cat/.hidden.png", "cat/._a.png", ".git/a.png", "__MACOSX/cat/a.png")
    pictures(tmp_path, *names)
    for name in (
        "cat/Thumbs.db",
        "cat/desktop.ini",
        "cat/@eaDir/x.png",
        "cat/a.txt",
        "cat/b.txt",
        "cat/c.json",
    ):
        written(tmp_path / name, "x")
    data = read_dataset(tmp_path)
    assert [picture.key for picture in data.pictures] == ["cat/a.png", "cat/b.png"]
    assert data.class_names == ("cat",)
    assert data.notes == ("files that are no pictures by their names, left out: 2 .txt, 1 .json",)
    assert not data.problems


def test_an_undecodable_kind_of_picture_is_listed_to_be_reported(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/a.png")
    written(tmp_path / "cat/b.nef", "raw")
    written(tmp_path / "cat/c.png", "")
    assert [picture.size for picture in read_dataset(tmp_path).pictures][1:] == [3, 0]


def test_empty_classes_and_pictures_without_a_class(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/a.png", "cat/b.png", "loose.png")
    (tmp_path / "dog").mkdir()
    data = read_dataset(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert data.problems == (Problem("loose.png", "is in no folder of a class"),)
    assert data.notes == ()


def test_links_are_followed_once(tmp_path: Path) -> None:
    pictures(tmp_path / "elsewhere", "a.png", "b.png")
    pictures(tmp_path / "own", "cat/c.png")
    (tmp_path / "own/dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "own/cat/loop").symlink_to(tmp_path / "own")
    (tmp_path / "own/cat/self").symlink_to("self")
    (tmp_path / "own/wolf").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "own/cat/gone.png").symlink_to("nowhere")
    data = read_dataset(tmp_path / "own")
    assert [picture.key for picture in data.pictures] == ["cat/c.png", "dog/a.png", "dog/b.png"]
    assert [(problem.key, problem.reason) for problem in data.problems] == [
        ("cat/gone.png", "cannot be read, no such file or directory"),
        ("cat/self", "cannot be read, too many levels of symbolic links"),
        ("cat/loop", "is the same folder as ."),
        ("wolf", "is the same folder as dog"),
    ]


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/a.png")
    os.mkfifo(tmp_path / "cat/pipe.png")
    data = read_dataset(tmp_path)
    assert data.problems == (Problem("cat/pipe.png", "not a regular file"),)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_a_problem(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/a.png", "dog/a.png")
    (tmp_path / "dog").chmod(0)
    data = read_dataset(tmp_path)
    (tmp_path / "dog").chmod(0o700)
    assert data.problems == (Problem("dog", "cannot be listed, permission denied"),)
    tmp_path.chmod(0)
    with pytest.raises(InvalidDataset, match="permission denied"):
        read_dataset(tmp_path)
    tmp_path.chmod(0o700)


def test_names_that_are_not_utf_8_are_printable(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/a.png")
    os.rename(os.fsencode(tmp_path) + b"/cat", os.fsencode(tmp_path) + b"/c\xe4t")
    (found,) = read_dataset(tmp_path).pictures
    assert (found.key, found.class_name) == ("c\\xe4t/a.png", "c\\xe4t")
    assert found.path.read_bytes()


def test_a_folder_in_a_folder_is_pointed_out(tmp_path: Path) -> None:
    pictures(tmp_path / "own", "all/cat/a.png", "all/dog/a.png")
    data = read_dataset(tmp_path / "own")
    assert data.notes == ("all is the only class; if its folders are the classes, evaluate own/all",)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "--data own: no folder with pictures .allowed: a folder of pictures per class"),
        (("a.png",), "no folder with pictures; a.png is in no folder of a class"),
        (("cat/x.txt",), "no folder with pictures"),
        (("train/cat/a.png", "val/cat/a.png"), "train, val are parts of a data set.*--data own/val"),
        (("images/a.png", "labels/a.txt"), "are those of YOLO"),
    ],
)
def test_folders_that_are_no_data_set(names: tuple[str, ...], words: str, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    for name in names:
        written(tmp_path / "own" / name, "x")
    with pytest.raises(InvalidDataset, match=words):
        read_dataset(tmp_path / "own")


@pytest.mark.parametrize("name", ["gone", "own.xml", "a\0b", "x" * 300])
def test_paths_that_are_no_data_set(name: str, tmp_path: Path) -> None:
    written(tmp_path / "own.xml", "<annotation/>")
    with pytest.raises(InvalidDataset, match="--data "):
        read_dataset(tmp_path / name)


def test_a_path_that_ends_in_dots_has_the_name_of_its_folder(tmp_path: Path) -> None:
    pictures(tmp_path / "own", "cat/a.png")
    assert read_dataset(tmp_path / "own/cat/..").name == "own"


def test_images_are_only_for_annotations(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/a.png")
    with pytest.raises(InvalidDataset, match="--images: only for annotations"):
        read_dataset(tmp_path, tmp_path)
    with pytest.raises(InvalidDataset, match="--images gone: no such folder"):
        read_dataset(tmp_path, tmp_path / "gone")
