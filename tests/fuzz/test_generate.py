"""Inputs are reproducible, and seeds are valid."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from service.errors import UndecodableImage
from service.inference.decoding.decode import decode
from tests.fuzz.generate import Generator
from tests.fuzz.jpeg_mutations import jpeg_segments
from tests.fuzz.seeds import load_seeds, make_seeds

# Pillow warns about unusual metadata; a warning is not an outcome.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.fuzz]

# Variants that the service may refuse; all other seeds must be decoded.
RARE = re.compile(
    r"jpeg (SOF[3-9]|SOF1\d|SOF. 12 bits|flat SOF3|SOF\d \(\(1, 1\), \(1, 1\)\)$)"
    r"|png colour 2 depth 16|bmp compression 6|tiff I;16B big_tiff|tiff . x .+ bits \{'(planar|order)'"
    r"|tiff (white is 0 of|12 bits|signed|subsampled|inks)"
)


def digest_of_inputs(count: int) -> str:
    """Return a hash of the first inputs of seed 5."""
    generator, digest = Generator(5), hashlib.sha256()
    for index in range(count):
        digest.update(repr(generator.input(index)).encode())
    return digest.hexdigest()


def test_input_depends_on_seed_and_number_only() -> None:
    generator = Generator(5)
    backwards = [generator.input(index) for index in reversed(range(200))]
    assert backwards[::-1] == [generator.input(index) for index in range(200)]
    assert generator.input(7) != Generator(6).input(7)


def test_inputs_of_another_process() -> None:
    code = "from tests.fuzz.test_generate import digest_of_inputs; print(digest_of_inputs(200))"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == digest_of_inputs(200)


def test_seeds_do_not_depend_on_the_cache() -> None:
    assert make_seeds() == load_seeds()


def test_all_targets_and_formats_occur() -> None:
    generator = Generator(1)
    inputs = [generator.input(index) for index in range(2000)]
    assert Counter(item.target for item in inputs).keys() == {"image", "form", "card"}
    origins = {item.origin.split()[0] for item in inputs if item.target == "image"}
    assert origins == {"jpeg", "png", "webp", "gif", "bmp", "tiff", "avif", "generated", "large", "other"}


def test_seeds_have_every_frame_type_of_jpeg() -> None:
    markers = {
        segment.marker
        for name, data in load_seeds().items()
        if name.startswith("jpeg")
        for segment in jpeg_segments(data)
    }
    assert markers >= set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def test_jpeg_segments_add_up_to_the_file() -> None:
    for name, data in load_seeds().items():
        if name.startswith("jpeg"):
            assert b"".join(bytes(segment) for segment in jpeg_segments(data)) == data, name


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "bmp", "tiff", "avif"])
def test_seeds_decode(kind: str) -> None:
    seeds = {name: data for name, data in load_seeds().items() if name.split()[0] == kind}
    assert len(seeds) >= 40
    for name, data in seeds.items():
        try:
            image = decode(data, shorter_side=1000, max_pixels=1_000_000)
        except UndecodableImage:
            assert RARE.match(name), name
        else:
            assert image.format == kind
