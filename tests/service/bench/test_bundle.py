"""Bundle files: round trip, earlier versions, and invalid files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.bench.bundle import Bundle, Flag, Memory, RateTrial
from service.bench.bundle_file import from_json, json_schema, read_bundle, to_json, write_bundle
from service.bench.judge.summary import recorder_samples, summarise
from service.errors import InvalidBundle
from tests.service.bench.bundles import bundle

SCHEMA = Path(__file__).parents[3] / "docs/bundle.schema.json"


@pytest.fixture
def measured() -> Bundle:
    return bundle({"a": [[[1000, 1001], [1002, 1003]]], "a#2": [[[990, 991], [992, 993]]]}, control="a#2")


def test_what_is_written_is_read_again(measured: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_bundle(path, measured)
    assert read_bundle(path) == measured
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


def test_bundle_of_an_earlier_version(tmp_path: Path) -> None:
    """The file was written by `weighin bench` at database schema 0004; do not regenerate it."""
    earlier = read_bundle(Path(__file__).parent / "data/bundle-of-schema-0004.json")
    assert [entry.name for entry in earlier.entries] == ["tiny", "tiny#again"]
    assert earlier.model_of(earlier.entry("tiny")).sha256.startswith("c913c7de")
    assert len(earlier.samples("tiny")) == 2 * 2 * 32
    (tiny, control) = summarise(earlier)
    assert (tiny.count, tiny.p50_ns, control.count, control.p50_ns) == (128, 25575.0, 128, 27175.0)
    assert tiny.p90 is not None
    assert (tiny.p90.estimate_ns, tiny.p90.bound_ns) == (35423, 53421)
    assert len(list(recorder_samples(earlier))) == 128
    write_bundle(tmp_path / "again.json", earlier)
    assert read_bundle(tmp_path / "again.json") == earlier


def test_samples_come_in_order_and_flags_by_entry(measured: Bundle) -> None:
    assert measured.samples("a") == (1000, 1001, 1002, 1003)
    flagged = measured.with_flag(Flag(kind="drift", entry="a", reason="it drifted"))
    assert flagged.flags_of("drift", "a")
    assert not flagged.flags_of("drift", "a#2")
    assert measured.model_of(measured.entry("a#2")).name == "a"


def test_the_schema_in_docs_is_the_code_s() -> None:
    assert SCHEMA.read_text() == json_schema(), (
        "python -m service.bench.bundle_file > docs/bundle.schema.json"
    )


def test_a_hand_edit_is_revealed(measured: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(to_json(measured).replace("1003", "1004"))
    with pytest.raises(InvalidBundle, match=r"run\.json: changed after it was written"):
        read_bundle(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_bundle_in_utf16_from_powershell(measured: Bundle, tmp_path: Path, encoding: str) -> None:
    """PowerShell's `>` writes UTF-16 with a byte order mark."""
    path = tmp_path / "bundle.json"
    path.write_bytes(to_json(measured).replace("\n", "\r\n").encode(encoding))
    assert read_bundle(path) == measured


def test_reformatting_is_no_edit(measured: Bundle) -> None:
    assert from_json(json.dumps(json.loads(to_json(measured)), indent=4)) == measured


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "no schema_version"),
        (b'{"schema_version": 2}', r"schema version 2 \(allowed: 1\)"),
        (b'{"schema_version": true}', "schema version True"),
        (b'{"schema_version": 1}', "no digest"),
    ],
)
def test_invalid_bundle(tmp_path: Path, text: bytes, words: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(text)
    with pytest.raises(InvalidBundle, match=words):
        read_bundle(path)


def test_invalid_content_with_valid_digest(measured: Bundle) -> None:
    wrong = measured.model_copy(update={"confidence": 1.5})
    with pytest.raises(InvalidBundle, match="not a valid bundle: confidence: "):
        from_json(to_json(wrong))


def changed(part: Any, **update: Any) -> Any:
    return part.model_copy(update=update)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: {"models": ()}, "entry 'a': its model 'a' is not among the models"),
        (lambda made: {"models": made.models * 2}, "models: 'a' more than once"),
        (lambda _: {"entries": ()}, "baseline 'a': not among the entries"),
        (lambda made: {"entries": (*made.entries, made.entries[1])}, "entries: 'a#2' more than once"),
        (
            lambda made: {"configuration": changed(made.configuration, baseline="b")},
            "baseline 'b': not among the entries",
        ),
        (
            lambda made: {"entries": (made.entries[0], changed(made.entries[1], model="b"))},
            "entry 'a#2': its model 'b' is not among the models",
        ),
        (lambda made: {"entries": made.entries[:1]}, "blocks: 'a#2' is not among the entries"),
        (
            lambda _: {"memory": (Memory(entry="b", before_bytes=1, peak_bytes=2),)},
            "memory: 'b' is not among the entries",
        ),
        (
            lambda _: {"flags": (Flag(kind="drift", entry="b", reason="it drifted"),)},
            "flags: 'b' is not among the entries",
        ),
        *(
            (
                lambda made, durations=durations: {
                    "blocks": (changed(made.blocks[0], durations_ns=durations),)
                },
                "blocks: 'a' in launch 0, round 0: no durations of inference, or not as many as of another "
                "stage",
            )
            for durations in ({}, {"total": (1,)}, {"inference": ()}, {"inference": (1,), "total": (1, 2)})
        ),
        (
            lambda _: {
                "trials": (
                    RateTrial(launch=0, entry="a", rate_per_s=1, latencies_ns=(1, 2), inference_ns=(1,)),
                )
            },
            "trials: 'a': latencies_ns and inference_ns differ in length",
        ),
    ],
)
def test_parts_that_do_not_belong_together(
    measured: Bundle, change: Callable[[Bundle], dict[str, Any]], words: str
) -> None:
    text = to_json(measured.model_copy(update=change(measured)))
    with pytest.raises(InvalidBundle) as error:
        from_json(text, "run.json")
    assert error.value.detail == f"run.json: not a valid bundle: {words}"


def test_bundle_without_results(measured: Bundle) -> None:
    """A benchmark that is cancelled at once has its models and entries, and nothing else."""
    cancelled = measured.model_copy(update={"blocks": ()}).with_flag(Flag(kind="partial", reason="cancelled"))
    assert from_json(to_json(cancelled)) == cancelled


def test_missing_bundle_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidBundle, match=r"^gone\.json cannot be read: no such file"):
        read_bundle(tmp_path / "gone.json")


def test_failed_write_keeps_the_old_file(measured: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.mkdir()  # os.replace cannot put a file there
    with pytest.raises(OSError, match="directory"):
        write_bundle(path, measured)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]
