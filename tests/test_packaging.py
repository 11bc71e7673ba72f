"""Lock files, imports and documented dependencies agree with the code."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import simplejpeg
from PIL import features

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = [ROOT / "requirements.lock", ROOT / "tests/requirements.lock", ROOT / "docker/ray/requirements.lock"]

# Registry hosts must not be pinned; spelled in pieces so that this file names none itself.
URL = re.compile(r"https?:" + r"//|--(extra-)?index-url|--find-links", re.IGNORECASE)


def pinned(lock: Path) -> dict[str, str]:
    """Return the version of each requirement in `lock` by its normalised name."""
    requirements = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", lock.read_text(), re.MULTILINE)
    return {normalised(name): version for name, version in requirements}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None, requirement
    return normalised(match.group())


RUNTIME = sorted(required(requirement) for requirement in PROJECT["dependencies"])


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.parent.name + "/" + path.name)
def test_lock_names_no_index(lock: Path) -> None:
    assert not URL.findall(lock.read_text())


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.parent.name + "/" + path.name)
def test_every_pinned_package_has_hashes(lock: Path) -> None:
    entries = re.split(r"^(?=\S)", lock.read_text(), flags=re.MULTILINE)
    entries = [entry for entry in entries if entry.strip() and not entry.startswith("#")]
    assert len(entries) == len(pinned(lock)) > 20
    assert not [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry]


def test_lock_pins_runtime_dependencies_without_torch() -> None:
    names = pinned(LOCKS[0]).keys()
    assert set(RUNTIME) <= names
    assert not names & {"torch", "opencv-python-headless", "opencv-python", "scipy", "pytest"}


def test_locks_agree() -> None:
    """A package in several locks has one version, and each has what the service needs."""
    served, *others = map(pinned, LOCKS)
    for other in others:
        assert {name: other.get(name) for name in served} == served
    tested, with_ray = others
    assert {name: tested.get(name, version) for name, version in with_ray.items()} == with_ray


@pytest.mark.parametrize("name", RUNTIME)
def test_dependency_is_documented(name: str) -> None:
    """docs/architecture.md has a row `| name | reason |` for each dependency."""
    lines = (ROOT / "docs/architecture.md").read_text().splitlines()
    rows = [line for line in lines if re.match(rf"\| `?{re.escape(name)}`? \|", line, re.IGNORECASE)]
    assert len(rows) == 1, f"docs/architecture.md: {len(rows)} rows '| `{name}` | reason |' (allowed: 1)"
    assert len(rows[0].split("|")[2].strip()) > 10


def test_only_settings_reads_the_environment() -> None:
    names = ("environ", "getenv", "environb", "getenvb")
    readers = []
    for path in sorted((ROOT / "service").rglob("*.py")):
        text = path.read_text()
        if not any(name in text for name in names):  # parsing takes longer
            continue
        for node in ast.walk(ast.parse(text)):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
            if name in names:
                readers.append(path.relative_to(ROOT).as_posix())
    # service/__init__.py only turns off the telemetry of onnxruntime
    assert set(readers) <= {"service/settings.py", "service/__init__.py"}


@pytest.mark.slow
def test_service_imports_neither_torch_nor_onnx() -> None:
    """Every module of the service can be imported without torch and onnx; onnx is imported lazily."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in ("service", "models/zoo", "models/onnx_tools")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "migrations" not in path.parts and path.stem not in ("__init__", "__main__")
    ]
    assert len(modules) > 20
    imports = "".join(f"importlib.import_module({module!r})\n" for module in modules)
    program = (  # without looking for garbage, which takes a third of the time
        "import gc, importlib, sys\ngc.disable()\nsys.modules.update(torch=None, onnx=None)\n"
        f"{imports}gc.freeze()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_documented_versions_of_decoders() -> None:
    """After a failure, read the library's change log before you update the version in docs/decoding.md."""
    rows = re.findall(
        r"^\| ([\w-]+) \| ([\d.]+) \| `(\w+)` \|", (ROOT / "docs/decoding.md").read_text(), re.MULTILINE
    )
    library = next(Path(simplejpeg.__file__).parent.glob("_jpeg.*.so"))
    builds = set(re.findall(rb"libjpeg-turbo version ([\d.]+)", library.read_bytes()))
    assert [version for name, version, package in rows if package == "simplejpeg"] == [
        build.decode() for build in builds
    ]
    pillow = {name: version for name, version, package in rows if package == "pillow"}
    assert pillow == {
        "libjpeg-turbo": features.version("libjpeg_turbo"),
        "libwebp": features.version("webp"),
        "libavif": features.version("avif"),
        "libtiff": features.version("libtiff"),
        "zlib-ng": features.version("zlib_ng"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("module", ["service.inference.session", "models.onnx_tools.inspect"])
def test_onnxruntime_has_no_telemetry(module: str, tmp_path: Path) -> None:
    code = f"import {module}, os, onnxruntime; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | {"HOME": str(tmp_path)},
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "1\n"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
