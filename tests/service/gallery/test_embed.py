"""What is kept of an image: embeddings of length 1, a hash that survives copying, a small picture."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from service.errors import InvalidParameter, ModelUnavailable, UndecodableImage
from service.gallery.duplicates import NEAR_COSINE, NEAR_HASH_BITS, differing_bits, duplicate, perceptual_hash
from service.gallery.embed import dimensions_of, embed, embedder_of, model_name, normalised, prepare
from service.inference.decoding.decode import decode
from service.inference.loading import ServedModel
from service.inference.registry import Registry
from tests.helpers.networks import LIGHT, save_network, served
from tests.service.gallery.pictures import PHOTOS, blobs, encoded, jpeg, photo


@pytest.fixture(scope="module")
def models(tiny_models_dir: Path) -> dict[str, ServedModel]:
    registry = Registry([tiny_models_dir], "tiny")
    registry.load()
    return {model.name: model for model in registry.loaded}


def hash_of(image: Image.Image) -> int:
    pixels = np.asarray(image.convert("RGB"))
    return perceptual_hash(pixels, (0, 0, pixels.shape[1], pixels.shape[0]))


@pytest.mark.slow
def test_embeddings_have_length_1(
    models: dict[str, ServedModel],
) -> None:
    one = prepare(jpeg("cat"), [models["tiny"]], max_pixels=10**7)
    both = prepare(jpeg("cat"), [models["tiny-b"], models["tiny"]], max_pixels=10**7)
    name = embedder_of(models["tiny"])
    assert model_name(name) == "tiny"
    assert name == f"tiny@{models['tiny'].card.file.sha256[:12]}"
    assert set(both.embeddings) == {embedder_of(models["tiny"]), embedder_of(models["tiny-b"])}
    np.testing.assert_array_equal(one.embeddings[name], both.embeddings[name])
    for vector in both.embeddings.values():
        assert vector.dtype == np.float32
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert (one.width, one.height, one.format) == (451, 300, "jpeg")


def test_embedder_of_another_file(models: dict[str, ServedModel]) -> None:
    card = models["tiny"].card
    changed = card.model_copy(update={"file": card.file.model_copy(update={"sha256": "0" * 64})})
    assert embedder_of(replace(models["tiny"], card=changed)) != embedder_of(models["tiny"])


def test_embedder_of_another_preprocessing(models: dict[str, ServedModel]) -> None:
    def embedder(version: int, outputs: dict[str, object] | None = None, **changes: object) -> str:
        card = models["tiny"].card
        update = {"schema_version": version, "input": card.input.model_copy(update=changes)}
        if outputs is not None:
            update["outputs"] = card.outputs | outputs
        return embedder_of(replace(models["tiny"], card=card.model_copy(update=update)))

    changed = [
        embedder(2),
        embedder(2, colour_order="bgr"),
        embedder(2, mean=(0.0,) * 3),
        embedder(2, fitting="stretch"),
        embedder(2, {"names": {"embedding": "flat"}}),
    ]
    assert len({*changed, embedder(1)}) == 6
    assert all(re.fullmatch(r"tiny@[0-9a-f]{12}", each) for each in changed)
    assert embedder(2) == embedder(2)
    assert embedder(2, {"names": {"logits": "y"}}) == embedder(2)
    assert embedder(1, mean=(0.0,) * 3) == embedder(1) == embedder_of(models["tiny"])


def test_embeddings_of_zeros_and_nans(tmp_path: Path) -> None:
    assert not normalised(np.zeros(8, np.float32)).any()
    model = served(save_network(tmp_path, "dark-fails", [("Log", [LIGHT], {})], embedding=True))
    white, black = (
        decode(encoded(Image.new("RGB", (64, 64), colour), "PNG"), shorter_side=32, max_pixels=10**7)
        for colour in ("white", "black")
    )
    embed(white, model)
    with pytest.raises(ModelUnavailable, match="output 'embedding' is not finite"):
        embed(black, model)


def test_model_without_embeddings(models: dict[str, ServedModel]) -> None:
    assert dimensions_of(models["tiny"]) == 8
    card = models["tiny"].card.model_copy(update={"outputs": {"logits": (10,)}})
    with pytest.raises(InvalidParameter, match="'tiny': no embedding"):
        dimensions_of(replace(models["tiny"], card=card))


def test_undecodable_histogram(models: dict[str, ServedModel]) -> None:
    with pytest.raises(UndecodableImage):
        prepare(jpeg("cat")[:5000], [models["tiny"]], max_pixels=10**7)


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (2, 3000), (300, 300)])
def test_thumbnails_of_extreme_shapes(models: dict[str, ServedModel], size: tuple[int, int]) -> None:
    kept = prepare(encoded(Image.new("RGB", size, "red"), "PNG"), [models["tiny"]], max_pixels=10**7)
    thumbnail = Image.open(io.BytesIO(kept.thumbnail))
    assert thumbnail.format == "JPEG"
    assert max(thumbnail.size) <= 256
    assert min(thumbnail.size) >= 1


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "quality 30": lambda image: Image.open(io.BytesIO(encoded(image, quality=30))),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "other aspect": lambda image: image.resize((image.width, image.height * 9 // 10)),
}


@pytest.mark.parametrize("edit", EDITS)
def test_hashes_of_copies(edit: str) -> None:
    for name in PHOTOS:
        assert differing_bits(hash_of(photo(name)), hash_of(EDITS[edit](photo(name)))) <= NEAR_HASH_BITS


def test_hashes_of_different_pictures() -> None:
    hashes = [hash_of(photo(name)) for name in PHOTOS]
    hashes += [hash_of(Image.open(io.BytesIO(blobs(seed)))) for seed in range(20)]
    for place, one in enumerate(hashes):
        assert 0 <= one < 1 << 64
        for other in hashes[place + 1 :]:
            assert differing_bits(one, other) > NEAR_HASH_BITS


def test_hash_of_flat_and_symmetric_pictures() -> None:
    assert {hash_of(Image.new("RGB", (37, 91), colour)) for colour in ("red", "white", "#123456")} == {0}


@pytest.mark.parametrize(
    ("sha256", "bits", "cosine", "expected"),
    [
        (("a", "a"), 64, -1.0, "exact"),
        (("a", "b"), NEAR_HASH_BITS, NEAR_COSINE, "near"),
        (("a", "b"), NEAR_HASH_BITS + 1, 1.0, None),
        (("a", "b"), 0, NEAR_COSINE - 0.01, None),
    ],
)
def test_near_takes_both_hash_and_cosine(
    sha256: tuple[str, str], bits: int, cosine: float, expected: str | None
) -> None:
    shape = 0x5555_5555_5555_5555
    assert duplicate(sha256, (shape, shape ^ ((1 << bits) - 1)), cosine) == expected


def flat(*colour: int) -> Image.Image:
    return Image.new("RGB", (300, 300), colour)


def ramp(turned: int) -> Image.Image:
    return Image.linear_gradient("L").rotate(90 * turned).convert("RGB")


EMPTY = {
    "white": flat(255, 255, 255),
    "black": flat(0, 0, 0),
    "blue": flat(0, 0, 254),
    "red": flat(220, 0, 0),
    "grey": flat(127, 127, 127),
}


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("other", EMPTY)
def test_pictures_without_shape_are_never_near(name: str, other: str) -> None:
    hashes = hash_of(EMPTY[name]), hash_of(EMPTY[other])
    assert duplicate(("a", "b"), hashes, 1.0) is None
    assert duplicate(("a", "a"), hashes, 1.0) == "exact"


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("size", [(300, 300), (301, 203)])
@pytest.mark.parametrize("spot", [0, 3])
def test_flat_pictures_are_not_near_after_encoding(kind: str, size: tuple[int, int], spot: int) -> None:
    hashes = []
    for image in EMPTY.values():
        colour = image.getpixel((0, 0))
        picture = Image.new("RGB", size, colour)
        picture.paste(tuple(abs(level - spot) for level in colour), (20, 20, 90, 90))
        hashes.append(hash_of(Image.open(io.BytesIO(encoded(picture, kind, quality=75)))))
    assert {duplicate(("a", "b"), pair, 1.0) for pair in itertools.combinations(hashes, 2)} == {None}


def test_copies_of_a_plain_shape_are_near() -> None:
    circle = Image.new("RGB", (300, 300), "white")
    ImageDraw.Draw(circle).ellipse((75, 75, 225, 225), fill="red")
    own = hash_of(circle)
    for kind, size in (("JPEG", (300, 300)), ("WEBP", (200, 200)), ("PNG", (123, 123))):
        copy = hash_of(Image.open(io.BytesIO(encoded(circle.resize(size), kind))))
        assert duplicate(("a", "b"), (own, copy), 0.95) == "near"


def test_ramps_in_other_directions_are_not_near() -> None:
    hashes = [hash_of(ramp(turned)) for turned in range(4)]
    assert {duplicate(("a", "b"), pair, 1.0) for pair in itertools.combinations(hashes, 2)} == {None}
