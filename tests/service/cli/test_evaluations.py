"""Where an evaluation goes: into the data directory, to the service that holds it, or into a file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from service.cli.evaluate.stored import keep
from service.errors import InvalidParameter, StorageUnavailable
from service.evaluation.result import read_evaluation
from service.evaluation.store import EvaluationStore
from service.settings import Settings
from service.storage.database import open_database
from tests.helpers.process import service_process
from tests.service.evaluation.evaluations import evaluation

Serve = Callable[..., httpx.Client]
MADE = evaluation({"a": [True, False] * 20})
MORE = evaluation({"b": [True] * 40})


def settings_for(data_dir: Path, key: str | None = None) -> Settings:
    return Settings(data_dir=data_dir, api_key=None if key is None else SecretStr(key))


@pytest.mark.databases("sqlite", "postgresql")
def test_keep_in_the_database(tmp_path: Path, migrated_url: str | None) -> None:
    settings = Settings(data_dir=tmp_path, database_url=migrated_url)
    kept = keep(MADE, settings)
    assert (kept.evaluation, kept.where, kept.file) == (MADE, f"stored as {MADE.id}", None)
    merged = keep(MORE, settings).evaluation
    assert [model.name for model in merged.models] == ["a", "b"]
    engine = open_database(migrated_url, tmp_path)
    assert EvaluationStore(engine).get(MADE.id) == merged
    engine.dispose()


@pytest.mark.fault
def test_post_to_the_service_that_holds_the_directory(tiny_models_dir: Path, tmp_path: Path) -> None:
    """The lock of the directory names the service's address; the key is that of the settings."""
    started = service_process(tiny_models_dir, tmp_path, api_key="open sesame")
    with started as process, process.client():
        kept = keep(MADE, settings_for(tmp_path, "open sesame"))
        assert kept.where.startswith(f"stored as {MADE.id} by the service at http://127.0.0.1:"), kept
        merged = keep(MORE, settings_for(tmp_path, "open sesame")).evaluation
        assert [model.name for model in merged.models] == ["a", "b"]
        refused = keep(MADE, settings_for(tmp_path, "wrong"))
        assert refused.file == tmp_path / "evaluations" / f"{MADE.id}.json"
        assert refused.file is not None
        assert read_evaluation(refused.file) == MADE
        assert "API key: wrong; WEIGHIN_API_KEY sets it; it is in " in refused.where
        assert f"curl --json @{refused.file} -H 'Authorization: Bearer KEY' http://" in refused.where
        assert "open sesame" not in refused.where


def test_post_to_a_url(serve: Serve, tmp_path: Path) -> None:
    client = serve()
    own = tmp_path / "own"
    kept = keep(MADE, settings_for(own), str(client.base_url))
    assert f"by the service at {str(client.base_url).rstrip('/')}" in kept.where
    assert client.get(f"/evaluations/{MADE.id}").status_code == 200
    assert not own.exists()


def test_no_service_at_the_url(tmp_path: Path) -> None:
    kept = keep(MADE, settings_for(tmp_path), "http://someone:secret@127.0.0.1:9")
    assert kept.file is not None
    assert json.loads(kept.file.read_text())["id"] == MADE.id
    assert kept.where.startswith("not stored: no answer from http://")
    assert "secret" not in kept.where
    with pytest.raises(InvalidParameter, match="--url 'ftp://x'"):
        keep(MADE, settings_for(tmp_path), "ftp://x")


def test_models_are_added_to_a_file_that_is_not_posted_yet(tmp_path: Path) -> None:
    """The file keeps what earlier commands left in it, and its path is one word of the shell command."""
    settings = settings_for(tmp_path / "my data")
    kept = [keep(made, settings, "http://127.0.0.1:9") for made in (MADE, MORE)][-1]
    assert kept.file is not None
    stored = read_evaluation(kept.file)
    assert ([model.name for model in stored.models], len(stored.pairs)) == (["a", "b"], 1)
    assert kept.evaluation == stored
    command = kept.where.partition("to post it: ")[2]
    assert shlex.split(command)[:3] == ["curl", "--json", f"@{kept.file}"]
    kept.file.write_text("{broken")
    keep(MORE, settings, "http://127.0.0.1:9")
    assert read_evaluation(kept.file) == MORE


def test_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageUnavailable, match=rf"data directory: .*; {MADE.id}.json cannot be written"):
        keep(MADE, settings_for(tmp_path / "file" / "data"))
