"""Runs of models on pictures: the predictions of /classify, resumed runs, pictures that cannot be used."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.zoo.corruptions import CORRUPTIONS, LARGE, SEVERITIES, SMALL, corrupt
from models.zoo.preprocess import preprocess
from service.errors import Busy
from service.evaluation.corruption import VIEW, corrupted_views, view_of
from service.evaluation.dataset import Dataset
from service.evaluation.progress import Progress
from service.evaluation.readers.folders import read_folders
from service.evaluation.run import Run, Runner, Subject, listing_changes
from service.inference.classify import predict
from service.inference.decoding.decode import decode
from service.inference.detect import detect_plan, find_objects
from service.inference.loading import load_model
from service.inference.pipeline import load_image
from service.latency.stages import Stopwatch
from tests.helpers.detectors import save_detector
from tests.helpers.networks import served
from tests.service.evaluation.colours import (
    COLOURS,
    FAILS_ON_DARK,
    picture,
    png,
    save_colours,
    save_pictures,
    save_reds,
)

IDS = {name: number for number, name in enumerate(COLOURS)}
MAX_PIXELS = 1_000_000


@pytest.fixture
def subjects(tmp_path: Path) -> list[Subject]:
    """Return two classifiers with different preprocessing."""
    zoo = tmp_path / "zoo"
    spec = {"height": 16, "width": 16, "resize": 20, "mean": [100.0] * 3, "std": [50.0] * 3}
    folders = [save_colours(zoo, "colours"), save_reds(zoo, input=spec | {"interpolation": "bicubic"})]
    return [Subject(served(folder), IDS) for folder in folders]


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def evaluated(
    dataset: Dataset,
    subjects: Sequence[Subject],
    progress: Progress,
    *,
    corruptions: bool = False,
    show: Callable[[int], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> tuple[Runner, Run]:
    runner = Runner(dataset, subjects, progress, threads=2, max_pixels=MAX_PIXELS, corruptions=corruptions)
    return runner, runner.run(show, stop or threading.Event())


def test_predictions_are_those_of_classify(tmp_path: Path, subjects: list[Subject]) -> None:
    contents = save_pictures(tmp_path / "data", 5)
    with Progress(tmp_path / "kept", tmp_path / "data") as progress:
        runner, run = evaluated(read_folders(tmp_path / "data"), subjects, progress)
        assert (run.interrupted, run.failed, run.computed) == (False, {}, 15)
        specs = [subject.model.card.input for subject in subjects]
        for key, content in contents.items():
            for subject in subjects:
                image = load_image(content, *specs, max_pixels=MAX_PIXELS)
                expected = predict(subject.model, image, 3, Stopwatch())
                prediction = runner.prediction(subject, sha(content))
                assert prediction is not None
                assert prediction.top == tuple(each.class_id for each in expected)
                assert prediction.probability == expected[0].probability
                true = next(each for each in expected if each.label == key.partition("/")[0])
                assert prediction.true_probability == true.probability


def test_detections_are_those_of_detect(tmp_path: Path) -> None:
    pixels = np.full((90, 120, 3), 100)
    pixels[10:60, 20:50] = (200, 90, 20)
    pixels[40:80, 70:100] = (60, 70, 230)
    content = png(pixels)
    (tmp_path / "data/red").mkdir(parents=True)
    (tmp_path / "data/red/0.png").write_bytes(content)
    model = load_model(save_detector(tmp_path / "zoo"))
    subject = Subject(model, IDS)
    with Progress(tmp_path / "kept", tmp_path / "data") as progress:
        runner, _ = evaluated(read_folders(tmp_path / "data"), [subject], progress)
        found = runner.detections(subject, sha(content))
    image = load_image(content, model.card.input, max_pixels=MAX_PIXELS)
    expected = find_objects(detect_plan(model, 0.001, 100), image, Stopwatch())
    assert found is not None
    assert len(expected) > 1
    assert found.boxes.tolist() == [list(each.box) for each in expected]
    assert found.scores.tolist() == [each.score for each in expected]
    assert found.class_ids.tolist() == [each.class_id for each in expected]


def test_stopped_run_goes_on(tmp_path: Path, subjects: list[Subject]) -> None:
    contents = save_pictures(tmp_path / "data", 20)
    dataset = read_folders(tmp_path / "data")
    stop = threading.Event()
    with Progress(tmp_path / "kept", dataset.path) as progress:
        _, first = evaluated(
            dataset, subjects, progress, show=lambda done: stop.set() if done == 10 else None, stop=stop
        )
    assert first.interrupted
    assert 10 <= first.computed < 60
    with Progress(tmp_path / "kept", dataset.path) as progress:
        resumed, second = evaluated(dataset, subjects, progress)
    assert not second.interrupted
    assert second.computed == 60 - first.computed
    with Progress(tmp_path / "other", dataset.path) as progress:
        whole, _ = evaluated(dataset, subjects, progress)
    for content in contents.values():
        for subject in subjects:
            prediction = whole.prediction(subject, sha(content))
            assert prediction is not None
            assert resumed.prediction(subject, sha(content)) == prediction


def test_what_was_kept_counts_only_for_the_same_file_label_and_preprocessing(
    tmp_path: Path, subjects: list[Subject]
) -> None:
    save_pictures(tmp_path / "data", 3)
    with Progress(tmp_path / "kept", tmp_path / "data") as progress:
        evaluated(read_folders(tmp_path / "data"), subjects, progress)
    (tmp_path / "data/red/0.png").rename(tmp_path / "data/red/renamed.png")
    (tmp_path / "data/red/1.png").rename(tmp_path / "data/blue/was-red.png")
    (tmp_path / "data/red/2.png").write_bytes(picture("red", 99))
    dataset = read_folders(tmp_path / "data")
    with Progress(tmp_path / "kept", tmp_path / "data") as progress:
        _, run = evaluated(dataset, subjects, progress)
        assert run.computed == 2  # the one of another class, and the new content
        other = served(save_reds(tmp_path / "zoo2", "reds"))
        _, run = evaluated(dataset, [subjects[0], Subject(other, IDS)], progress)
        assert run.computed == 9  # they are decoded for other sizes


@pytest.mark.parametrize("cut", [b"", b'{"picture": "12', b"\0" * 40])
def test_file_that_was_cut_off_goes_on(tmp_path: Path, subjects: list[Subject], cut: bytes) -> None:
    save_pictures(tmp_path / "data", 3)
    dataset = read_folders(tmp_path / "data")
    with Progress(tmp_path / "kept", dataset.path) as progress:
        evaluated(dataset, subjects, progress)
    with progress.path.open("ab") as file:
        file.write(cut)
    with Progress(tmp_path / "kept", dataset.path) as progress:
        assert evaluated(dataset, subjects, progress)[1].computed == 0
    progress.path.write_bytes(b"not JSON\n" + progress.path.read_bytes())
    with Progress(tmp_path / "kept", dataset.path) as progress:
        assert evaluated(dataset, subjects, progress)[1].computed == 9
    progress.remove()
    assert list((tmp_path / "kept").iterdir()) == []


def test_folder_that_cannot_be_written_is_no_error(tmp_path: Path, subjects: list[Subject]) -> None:
    content = save_pictures(tmp_path / "data", 1)["red/0.png"]
    (tmp_path / "kept").write_text("a file")
    with Progress(tmp_path / "kept", tmp_path / "data") as progress:
        runner, run = evaluated(read_folders(tmp_path / "data"), subjects, progress)
        assert progress.problem == f"{tmp_path / 'kept'}: file exists"
        assert run.computed == 3
        assert runner.prediction(subjects[0], sha(content)) is not None


def test_full_disk_is_no_error(tmp_path: Path, subjects: list[Subject]) -> None:
    content = save_pictures(tmp_path / "data", 1)["red/0.png"]
    with Progress(tmp_path / "kept", tmp_path / "data") as progress:
        progress.path.unlink()
        progress.path.symlink_to("/dev/full")
        runner, run = evaluated(read_folders(tmp_path / "data"), subjects, progress)
        assert progress.problem == f"{tmp_path / 'kept'}: no space left on device"
        assert run.computed == 3
        assert runner.prediction(subjects[0], sha(content)) is not None


def test_second_process_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with (
        Progress(tmp_path / "kept", tmp_path),
        pytest.raises(Busy, match="another process evaluates it"),
        Progress(tmp_path / "kept", tmp_path),
    ):
        pass
    with Progress(tmp_path / "kept", tmp_path) as progress:
        assert progress.problem is None


def test_unusable_pictures_are_named(tmp_path: Path, subjects: list[Subject]) -> None:
    save_pictures(tmp_path / "data", 3)
    data = tmp_path / "data"
    (data / "red/0.png").write_bytes((data / "red/1.png").read_bytes()[:100])
    (data / "red/text.png").write_text("no picture")
    (data / "green/huge.png").write_bytes(png(np.zeros((1001, 1000, 3))))
    dataset = read_folders(data)
    (data / "blue/0.png").unlink()
    (data / "blue/1.png").write_bytes(picture("blue", 50, side=40))
    with Progress(tmp_path / "kept", data) as progress:
        _, run = evaluated(dataset, subjects, progress)
    problems = {seen.picture.key: seen.problem for seen in run.seen if seen.problem}
    assert problems.pop("red/0.png", "").startswith("PNG: truncated")  # type: ignore[union-attr]
    assert problems.pop("red/text.png", "").startswith("image: unknown type")  # type: ignore[union-attr]
    assert problems == {
        "blue/0.png": "is gone, though it was listed",
        "green/huge.png": "PNG: 1000 x 1001 = 1001000 pixels (limit: 1000000)",
    }
    assert [seen.picture.key for seen in run.seen if seen.changed] == ["blue/1.png"]
    assert len(run.seen) == len(dataset.pictures) == 11


def test_changes_of_a_listing(tmp_path: Path) -> None:
    save_pictures(tmp_path, 2)
    before = read_folders(tmp_path)
    (tmp_path / "red/new.png").write_bytes(picture("red", 9))
    (tmp_path / "green/0.png").unlink()
    assert listing_changes(before, read_folders(tmp_path)) == (["red/new.png"], [])
    relabelled = tuple(
        replace(each, class_name="blue" if each.key == "red/1.png" else each.class_name)
        for each in before.pictures
    )
    assert listing_changes(before, replace(before, pictures=relabelled)) == ([], ["red/1.png"])


def test_model_that_fails_on_a_picture_is_left_out(tmp_path: Path, subjects: list[Subject]) -> None:
    save_pictures(tmp_path / "data", 3)
    (tmp_path / "data/red/dark.png").write_bytes(png(np.zeros((16, 16, 3))))
    fragile = Subject(served(save_colours(tmp_path / "zoo", "fragile", tail=FAILS_ON_DARK)), IDS)
    with Progress(tmp_path / "kept", tmp_path / "data") as progress:
        runner, run = evaluated(read_folders(tmp_path / "data"), [*subjects, fragile], progress)
        assert list(run.failed) == ["fragile"]
        assert run.failed["fragile"].startswith("failed on red/dark.png: ")
        assert all(runner.prediction(subjects[0], seen.sha256) for seen in run.seen)


def test_error_in_a_thread_ends_the_run(tmp_path: Path, subjects: list[Subject]) -> None:
    save_pictures(tmp_path / "data", 20)
    wrong = Subject(subjects[0].model, {**IDS, "red": 7})  # not a class of the network
    threads = threading.active_count()
    with Progress(tmp_path / "kept", tmp_path / "data") as progress, pytest.raises(IndexError):
        evaluated(read_folders(tmp_path / "data"), [wrong], progress)
    assert threading.active_count() == threads


def test_error_of_the_display_ends_the_threads(tmp_path: Path, subjects: list[Subject]) -> None:
    save_pictures(tmp_path / "data", 20)

    def fail(done: int) -> None:
        raise RuntimeError(f"display: {done}")

    threads = threading.active_count()
    dataset = read_folders(tmp_path / "data")
    with Progress(tmp_path / "kept", dataset.path) as progress, pytest.raises(RuntimeError, match="display"):
        evaluated(dataset, subjects, progress, show=fail)
    assert threading.active_count() == threads


@pytest.mark.slow
def test_corrupted_versions_are_judged_as_by_hand(tmp_path: Path, subjects: list[Subject]) -> None:
    contents = save_pictures(tmp_path / "data", 4)
    dataset = read_folders(tmp_path / "data")
    with Progress(tmp_path / "kept", dataset.path) as progress:
        _, plain = evaluated(dataset, subjects, progress)
        runner, run = evaluated(dataset, subjects, progress, corruptions=True)
        assert plain.computed == run.computed == 12  # what was kept has no corrupted versions
        subject = subjects[0]
        spec = subject.model.card.input
        for key, content in contents.items():
            image = decode(content, shorter_side=20, max_pixels=MAX_PIXELS)
            square = image.pixels[:, 2:18]  # of 16 x 20 pixels
            right = runner.corrupted(subject, sha(content))
            assert right is not None
            assert right.shape == (len(CORRUPTIONS), len(SEVERITIES))
            for version, is_right in zip(VIEW, right.ravel().tolist(), strict=True):
                pixels = corrupt(square, *version, SMALL, seed=int(sha(content)[:8], 16))
                logits = subject.model.session.run(preprocess(pixels, spec))["logits"][0]
                assert is_right == (COLOURS[int(logits.argmax())] == key.partition("/")[0])
        assert evaluated(dataset, subjects, progress)[1].computed == 0


def test_views_of_small_grey_and_of_large_pictures(tmp_path: Path) -> None:
    small = served(save_colours(tmp_path, "small")).card.input
    large = small.model_copy(update={"height": 96, "width": 96, "resize": 100})
    grey = np.random.default_rng(0).integers(0, 255, (16, 16, 1)).repeat(3, axis=2)
    image = decode(png(grey), shorter_side=16, max_pixels=MAX_PIXELS)
    versions = list(corrupted_views(image, view_of(small), seed=3))
    assert len(versions) == len(VIEW) == 25
    for (corruption, severity), version in zip(VIEW, versions, strict=True):
        expected = corrupt(image.pixels[..., 0], corruption, severity, SMALL, seed=3)
        assert (version == expected[..., None]).all()
    flat = decode(png(np.full((150, 154, 3), 127)), shorter_side=100, max_pixels=MAX_PIXELS)
    noisy = next(corrupted_views(flat, view_of(large), seed=3))
    assert noisy.shape == (100, 100, 3)
    assert noisy.std() == pytest.approx(255 * LARGE.noise[0], rel=0.05)
    noisy = next(corrupted_views(flat, view_of(small), seed=3))
    assert noisy.std() == pytest.approx(255 * SMALL.noise[0], rel=0.1)
    whole = large.model_copy(update={"fitting": "letterbox"})
    assert next(corrupted_views(flat, view_of(whole), seed=3)).shape == (97, 100, 3)


def test_progress_keeps_json_only(tmp_path: Path, subjects: list[Subject]) -> None:
    save_pictures(tmp_path / "data", 1)
    with Progress(tmp_path / "kept", tmp_path / "data") as progress:
        evaluated(read_folders(tmp_path / "data"), subjects, progress)
    first, *lines = progress.path.read_text().splitlines()
    assert json.loads(first)["data"] == str(tmp_path / "data")
    assert {len(json.loads(line)["models"]) for line in lines} == {2}
