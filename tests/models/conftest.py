"""Where the photographs of `make photos` and the project's own zoo are."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def zoo() -> Path:
    """The project's own zoo."""
    return ROOT / "models" / "zoo" / "networks"


@pytest.fixture(scope="session")
def photos() -> Path:
    """The photographs of `make photos`; tests that ask for them fail without, and say what to do."""
    folder = ROOT / ".cache" / "photos"
    if not folder.is_dir():
        pytest.fail("the photographs are missing; fetch them with: make photos", pytrace=False)
    return folder


@pytest.fixture(scope="session")
def published() -> Path:
    """The files of `make detectors`; tests that ask for them fail without, and say what to do."""
    folder = ROOT / ".cache" / "detectors"
    if not folder.is_dir():
        pytest.fail("the detectors' weights are missing; fetch them with: make detectors", pytrace=False)
    return folder


@pytest.fixture(scope="session")
def fashion() -> Path:
    """The files of `make fashion`; tests that ask for them fail without, and say what to do."""
    folder = ROOT / ".cache" / "fashion-mnist"
    if not folder.is_dir():
        pytest.fail("Fashion-MNIST is missing; fetch it with: make fashion", pytrace=False)
    return folder
