"""`weighin gallery ...` against running services and on data directories, with files and processes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import httpx
import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from service.api.gallery_images import ImageOut
from service.cli.gallery import gallery_app
from service.errors import UnreadableFolder, WeighinError
from service.inference.decoding.decode import SUFFIXES, SUFFIXES_OF, Format, decode
from tests.helpers.command_line import parsed
from tests.helpers.networks import save_network
from tests.helpers.postgres import PostgresServer
from tests.helpers.process import environment, service_process

Serve = Callable[..., httpx.Client]


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures in a folder and two below it; one file of another kind; one that is no picture at all."""
    folder = tmp_path / "photos"
    for number, name in enumerate(("top.png", "cats/a.png", "cats/b.PNG", "dogs/old/c.png", "dogs/d.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(number))
    (folder / "notes.txt").write_text("not a picture")
    return folder


def gallery(client: httpx.Client, *arguments: object) -> Result:
    """Run the command in this process, against the service of `client`."""
    return CliRunner().invoke(gallery_app, [*map(str, arguments), "--url", str(client.base_url)])


@pytest.fixture
def emptied(client: httpx.Client) -> httpx.Client:
    """Return the client of the module's service, with an empty gallery."""
    images = client.get("/gallery/images?limit=1000").json()["images"]
    assert len(images) < 1000
    for image in images:
        assert client.delete(f"/gallery/images/{image['id']}").status_code == 204
    return client


def listed(client: httpx.Client, *arguments: str) -> list[dict[str, object]]:
    done = gallery(client, "list", "--json", *arguments)
    assert done.exit_code == 0, done.output
    for line in done.stdout.splitlines():
        parsed(ImageOut, line)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.databases("sqlite", "postgresql")
def test_add_folder_with_metadata_from_path(emptied: httpx.Client, photos: Path) -> None:
    done = gallery(emptied, "add", photos, "--metadata-from-path")
    assert (done.exit_code, done.stdout) == (0, "5 added, 1 other files skipped\n"), done.output
    done = gallery(emptied, "add", photos, photos / "cats", photos / "top.png")
    assert (done.exit_code, done.stdout) == (0, "5 exists, 1 other files skipped\n"), done.output
    assert sorted(str(image["metadata"]) for image in listed(emptied)) == sorted(
        map(
            str,
            (
                {"label": "cats", "path": "cats/a.png"},
                {"label": "cats", "path": "cats/b.PNG"},
                {"label": "dogs", "path": "dogs/d.png"},
                {"label": "old", "path": "dogs/old/c.png"},
                {"path": "top.png"},
            ),
        )
    )
    assert len(listed(emptied, "--where", '{"label": "cats"}')) == 2
    assert len(listed(emptied, "--limit", "3")) == 3
    table = gallery(emptied, "list").stdout
    assert "label=old, path=dogs/old/c.png" in table
    assert "5 images of " in table
    assert "embedded by tiny" in table
    found = emptied.post("/retrieve-similar?k=1", content=picture(1)).json()["matches"]
    assert [match["duplicate"] for match in found] == ["exact"]


def test_add_with_rejected_files(emptied: httpx.Client, photos: Path) -> None:
    (photos / "cats/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not really")
    done = gallery(emptied, "add", photos, photos / "notes.txt")
    assert done.exit_code == 1
    assert done.stdout == "5 added, 2 rejected, 1 other files skipped\n"
    assert "cats/broken.jpg: " in done.stderr
    assert "notes.txt: " in done.stderr
    assert len(listed(emptied)) == 5


def test_add_with_broken_links(emptied: httpx.Client, photos: Path) -> None:
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    (photos / "loop").symlink_to(photos / "loop")
    (photos / "linked.png").symlink_to(photos / "top.png")
    done = gallery(emptied, "add", photos)
    assert done.exit_code == 0
    assert "5 added, 1 exists" in done.stdout
    assert f"skipped: {photos / 'gone.png'}: no such file or directory" in done.stderr
    assert f"skipped: {photos / 'loop'}: too many levels" in done.stderr


def test_add_unreadable_folder(emptied: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    done = gallery(emptied, "add", tmp_path / "loop")
    assert isinstance(done.exception, UnreadableFolder)
    assert "too many levels" in str(done.exception)


def test_remove_with_unknown_ids(emptied: httpx.Client, photos: Path) -> None:
    gallery(emptied, "add", photos)
    ids = [str(image["id"]) for image in listed(emptied)]
    done = gallery(emptied, "remove", ids[0], "nothing", ids[1])
    assert (done.exit_code, done.stdout) == (1, "2 removed\n")
    assert "image 'nothing': not in the gallery" in done.stderr
    assert [image["id"] for image in listed(emptied)] == ids[2:]
    assert gallery(emptied, "remove", ids[2]).exit_code == 0


@pytest.mark.slow
def test_export_and_import_across_databases(
    serve: Serve, photos: Path, tmp_path: Path, postgres: PostgresServer
) -> None:
    here = serve(data_dir=tmp_path / "here")
    gallery(here, "add", photos, "--metadata-from-path")
    assert here.put("/gallery/images/my.own-id_1", content=picture(9)).status_code == 201
    done = gallery(here, "export", tmp_path / "gallery.tar")
    assert (done.exit_code, done.stdout) == (0, f"6 images written to {tmp_path / 'gallery.tar'}\n")
    with tarfile.open(tmp_path / "gallery.tar") as tar:
        assert tar.getnames()[0] == "gallery.jsonl"
        assert len(tar.getnames()) == 7
    shared = serve(data_dir=tmp_path / "unused", database_url=postgres.new_schema())
    done = gallery(shared, "import", tmp_path / "gallery.tar")
    assert (done.exit_code, done.stdout) == (0, "6 added\n"), done.output
    done = gallery(shared, "import", tmp_path / "gallery.tar")
    assert (done.exit_code, done.stdout) == (0, "6 replaced\n"), done.output

    def contents(client: httpx.Client) -> list[tuple[object, object, bytes]]:
        return [
            (image["id"], image["metadata"], client.get(f"/gallery/images/{image['id']}/content").content)
            for image in listed(client)
        ]

    assert contents(shared) == contents(here)
    assert ("my.own-id_1", {}, picture(9)) in contents(shared)
    assert gallery(shared, "export", tmp_path / "again.tar").exit_code == 0
    back = serve(data_dir=tmp_path / "back")
    assert gallery(back, "import", tmp_path / "again.tar").exit_code == 0
    assert contents(back) == contents(here)


@pytest.mark.slow
def test_import_of_invalid_and_damaged_files(emptied: httpx.Client, photos: Path, tmp_path: Path) -> None:
    for name, content in (("text.tar", b"no tar at all"), ("empty.tar", b"")):
        (tmp_path / name).write_bytes(content)
        done = gallery(emptied, "import", tmp_path / name)
        assert done.exit_code == 1
        assert "BadArchive" in repr(done.exception)
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(photos / "top.png", "images/../../top.png")
    assert "does not begin with gallery.jsonl" in str(
        gallery(emptied, "import", tmp_path / "other.tar").exception
    )
    assert "no such file" in str(gallery(emptied, "import", tmp_path / "none.tar").exception)
    gallery(emptied, "add", photos)
    gallery(emptied, "export", tmp_path / "good.tar")
    content = (tmp_path / "good.tar").read_bytes()
    middle = content.index(picture(0)) + 500
    (tmp_path / "bad.tar").write_bytes(content[:middle] + b"?" + content[middle + 1 :])
    assert "damaged, its sha256 does not match" in str(
        gallery(emptied, "import", tmp_path / "bad.tar").exception
    )
    (tmp_path / "short.tar").write_bytes(content[: len(content) // 2])
    assert "damaged" in str(gallery(emptied, "import", tmp_path / "short.tar").exception)
    assert list(tmp_path.glob(".*")) == [], "an export left something behind"


@pytest.mark.slow
@pytest.mark.databases("sqlite", "postgresql")
def test_reindex_with_another_model(serve: Serve, photos: Path) -> None:
    client = serve()
    gallery(client, "add", photos)
    done = gallery(client, "reindex", "--model", "tiny-b")
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith("5 images are embedded by tiny-b\n")
    assert client.post("/retrieve-similar", content=picture(0)).json()["model"] == "tiny-b"
    assert "model 'none': unknown" in str(gallery(client, "reindex", "--model", "none").exception)


def test_reindex_with_an_unavailable_model(serve: Serve, tmp_path: Path) -> None:
    save_network(tmp_path / "zoo", "tiny")
    save_network(tmp_path / "zoo", "batch-8", batch=8)
    client = serve(model_dirs=(tmp_path / "zoo",))
    started = time.monotonic()
    done = gallery(client, "reindex", "--model", "batch-8")
    assert "'batch-8' cannot be served: the model's input has a fixed batch of 8" in str(done.exception)
    assert time.monotonic() - started < 10  # it would be 29 s


@pytest.mark.slow
def test_add_to_a_full_gallery(serve: Serve, photos: Path) -> None:
    client = serve(gallery_max_images=3)
    done = gallery(client, "add", photos)
    assert done.exit_code == 1
    assert "limit: 3" in str(done.exception)
    assert "3 added" in done.stdout
    assert len(listed(client)) == 3


@pytest.mark.slow
def test_api_key_is_sent(serve: Serve, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(api_key=SecretStr("sesame"))
    assert "401" not in str(gallery(client, "list").exception)
    assert gallery(client, "add", photos).exit_code == 1
    assert listed(client) == []
    monkeypatch.setenv("WEIGHIN_API_KEY", "sesame")
    assert gallery(client, "add", photos).exit_code == 0


def test_unreachable_service() -> None:
    for url, words in (("http://127.0.0.1:9", "no answer from"), ("nonsense", "no answer from")):
        done = CliRunner().invoke(gallery_app, ["list", "--url", url])
        assert done.exit_code == 1
        assert words in str(done.exception)


HOSTILE = [
    b"cats [edited]/a[/b].png",
    b":cat:/a\x1b[31m\nb.png",
    b"caf\xe9/\xff.JPG",
    "\u732b/\u202egnp.png".encode(),
    b"-/--url.png",
    b"q\"u;o't=e/100 %41\\x.png",
    b"l" * 255 + b"/" + b"n" * 251 + b".png",
]


@pytest.mark.slow
def test_hostile_file_names_in_metadata(emptied: httpx.Client, tmp_path: Path) -> None:
    for number, name in enumerate(HOSTILE):
        file = tmp_path / "photos" / os.fsdecode(name)
        file.parent.mkdir(parents=True)
        file.write_bytes(picture(number))
    done = gallery(emptied, "add", tmp_path / "photos", "--metadata-from-path")
    assert (done.exit_code, done.stdout) == (0, f"{len(HOSTILE)} added\n"), done.output
    paths = {str(image["metadata"]["path"]) for image in listed(emptied)}  # type: ignore[index]
    assert paths == {name.decode("utf-8", "backslashreplace") for name in HOSTILE}
    table = gallery(emptied, "list").stdout
    assert "\x1b" not in table
    assert r"path=:cat:/a\x1b[31m\nb.png" in "".join(table.split("  "))
    assert gallery(emptied, "export", tmp_path / os.fsdecode(b"out[b]\xff.tar")).exit_code == 0


@pytest.mark.slow
def test_rejected_files_with_hostile_names(emptied: httpx.Client, tmp_path: Path) -> None:
    broken = tmp_path / "photos" / os.fsdecode(b"[b]/[/b]\x1b\xe9.png")
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"\x89PNG\r\n\x1a\n not really")
    deep = tmp_path / "photos" / "/".join("d" * 200 for _ in range(11))
    deep.mkdir(parents=True)
    (deep / "a.png").write_bytes(picture(1))
    done = gallery(emptied, "add", tmp_path / "photos", "--metadata-from-path")
    assert (done.exit_code, done.stdout) == (1, "2 rejected\n")
    assert r"[/b]\x1b\xe9.png: " in done.stderr
    assert "a.png: metadata: field 'path': 2216 bytes (limit: 2000)" in done.stderr
    done = gallery(emptied, "remove", os.fsdecode(b"\xff"))
    assert done.exit_code == 1
    assert done.exception is None or isinstance(done.exception, SystemExit)
    done = gallery(emptied, "list", "--where", os.fsdecode(b"\xff"))
    assert isinstance(done.exception, WeighinError)


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_suffix_has_a_decoder(suffix: str) -> None:
    kind = next(kind for kind, suffixes in SUFFIXES_OF.items() if suffix in suffixes)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "green").save(buffer, kind)
    assert decode(buffer.getvalue(), shorter_side=8, max_pixels=64).format == kind


def test_suffixes_in_any_case(emptied: httpx.Client, tmp_path: Path) -> None:
    assert SUFFIXES_OF.keys() == set(get_args(Format)) - {"heif"}  # which is an extra
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, suffix in enumerate(sorted(SUFFIXES)):
        (folder / f"{number}{suffix.upper() if number % 2 else suffix}").write_bytes(picture(number))
    for suffix in (".ppm", ".pgm", ".svg", ".txt", ".heic"):  # which decode does not read
        (folder / f"other{suffix}").write_bytes(picture(0))
    done = gallery(emptied, "add", folder)
    assert done.stdout == f"{len(SUFFIXES)} added, 5 other files skipped\n", done.output


def test_add_with_an_empty_argument() -> None:
    done = CliRunner().invoke(gallery_app, ["add", ""])
    assert done.exit_code == 1
    assert "DIR is empty" in str(done.exception)


@pytest.mark.parametrize("form", ["{host}:{port}", "http://{host}:{port}/", " HTTP://{host}:{port}"])
def test_spellings_of_the_service_url(client: httpx.Client, form: str) -> None:
    url = form.format(host=client.base_url.host, port=client.base_url.port)
    assert CliRunner().invoke(gallery_app, ["list", "--url", url]).exit_code == 0


@pytest.mark.parametrize(
    "url", ["", "ws://localhost:8000", "http:/localhost", "http://u:secret@localhost:port"]
)
def test_invalid_service_url(url: str) -> None:
    done = CliRunner().invoke(gallery_app, ["list", "--url", url])
    assert done.exit_code == 1
    assert str(done.exception).endswith("not a service URL (example: http://127.0.0.1:8000)")
    assert "secret" not in str(done.exception)


def weighin(models_dir: Path, data_dir: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", "gallery", *map(str, arguments)],
        env=environment(models_dir, data_dir),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.fault
def test_gallery_in_the_data_directory(tiny_models_dir: Path, tmp_path: Path, photos: Path) -> None:
    done = weighin(tiny_models_dir, tmp_path / "data", "add", photos)
    assert (done.returncode, done.stdout) == (0, "5 added, 1 other files skipped\n"), done.stderr
    with service_process(tiny_models_dir, tmp_path / "data") as process, process.client() as client:
        assert client.get("/gallery").json()["images"] == 5
        done = weighin(tiny_models_dir, tmp_path / "data", "list")
        assert done.returncode == 1
        assert "in use by process" in done.stderr
        assert "--url" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.fault
def test_add_continues_after_ctrl_c(tiny_models_dir: Path, tmp_path: Path) -> None:
    folder, data_dir = tmp_path / "many", tmp_path / "data"
    folder.mkdir()
    for number in range(120):
        (folder / f"{number}.png").write_bytes(picture(number))
    with subprocess.Popen(
        [sys.executable, "-m", "service", "gallery", "add", str(folder)],
        env=environment(tiny_models_dir, data_dir),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        log = data_dir / "weighin.db-wal"
        while not log.exists() or log.stat().st_size < 500_000:
            assert process.poll() is None, "it ended before it could be interrupted"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "repeat the command to continue" in err
    assert "Traceback" not in err
    added = int(out.split(" added")[0])
    assert 0 < added < 120
    done = weighin(tiny_models_dir, data_dir, "add", folder)
    assert done.returncode == 0, done.stderr
    counts = {part.split()[1]: int(part.split()[0]) for part in done.stdout.strip().split(", ")}
    assert counts["added"] + counts["exists"] == 120
    assert added <= counts["exists"] <= added + 8
