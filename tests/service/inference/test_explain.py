"""Class activation maps of the project's own models are exact, and pictures of them are where they belong."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.zoo.card import File, InputSpec
from models.zoo.files import NETWORKS
from models.zoo.preprocess import crop_box
from service.errors import NoExactMap
from service.inference.decoding.decode import decode
from service.inference.explain import Explainer, Explanation
from service.inference.heatmap import LONGEST_SIDE, heatmap_png
from service.inference.linear_head import LinearHead, UnusableHead, read_linear_head
from service.inference.pool import CorePool, Deadline
from service.inference.registry import Registry

Explain = Callable[..., Explanation]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("zoo")
    for path in NETWORKS.glob("efficientnet-*"):
        (folder / path.name).symlink_to(path)
    registry = Registry([folder], "efficientnet-lite0-int8")
    registry.load()
    return registry


@pytest.fixture(scope="module")
def explain(zoo: Registry) -> Iterator[Explain]:
    """Explain with a pool of one thread: `explain(data, model, class_id=None)`."""
    pool = CorePool(1, 4)
    explainer = Explainer(zoo, pool, max_pixels=10**7)

    def run(data: bytes, model: str, class_id: int | None = None) -> Explanation:
        async def within_loop() -> Explanation:
            plan = explainer.plan(zoo.get(model), class_id)
            return await explainer.run(plan, data, Deadline.after(60), picture=False, over_image=False)

        return asyncio.run(within_loop())

    yield run
    pool.close()


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted(path.name for path in NETWORKS.glob("efficientnet-*")))
def test_mean_and_bias_are_the_logit(explain: Explain, cat_jpeg: bytes, png: bytes, model: str) -> None:
    """Of fp32 models, and of int8 ones, which keep pooling and classifier in float: within 1e-3."""
    for data in (cat_jpeg, png):
        for class_id in (None, 0, 281, 282, 285, 999):
            found = explain(data, model, class_id)
            assert abs(found.values.mean() + found.bias - found.logit) < 1e-3, (model, class_id)
            assert found.values.std() > 0.1, "a map that is the same everywhere explains nothing"


def test_the_map_of_a_cat_is_about_the_cat(explain: Explain, cat_jpeg: bytes) -> None:
    """The photograph is of a face; mirrored, the map is mirrored."""
    found = explain(cat_jpeg, "efficientnet-lite0")
    assert found.class_id in range(281, 286)
    assert found.label
    buffer = io.BytesIO()
    upright = Image.open(io.BytesIO(cat_jpeg))
    upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(buffer, "PNG")
    mirrored = explain(buffer.getvalue(), "efficientnet-lite0", found.class_id)
    same = np.corrcoef(found.values.ravel(), mirrored.values.ravel())[0, 1]
    flipped = np.corrcoef(found.values.ravel(), mirrored.values[:, ::-1].ravel())[0, 1]
    assert flipped > 0.8
    assert flipped > same


def test_region(explain: Explain, cat_jpeg: bytes) -> None:
    """451 x 300, of which 224 of 256 parts of the shorter side are cut out of the centre."""
    left, top, right, bottom = explain(cat_jpeg, "efficientnet-lite0").region
    side = 300 * 224 / 256
    assert (right - left, bottom - top) == pytest.approx((side, side))
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((451 / 2, 150))


def test_region_at_any_decoding_scale(explain: Explain) -> None:
    buffer = io.BytesIO()
    ramp = np.linspace(0, 255, 1501 * 1001 * 3).reshape(1001, 1501, 3).astype(np.uint8)
    Image.fromarray(ramp).save(buffer, "JPEG")
    found = explain(buffer.getvalue(), "efficientnet-lite0")
    assert found.image.scale > 1
    side = 1001 * 224 / 256
    assert found.region == pytest.approx(
        ((1501 - side) / 2, (1001 - side) / 2, (1501 + side) / 2, (1001 + side) / 2)
    )


def test_map_is_high_where_the_class_is(explain: Explain, cat_jpeg: bytes) -> None:
    """A cat beside nothing: what speaks for the cat lies on its side."""
    cat = Image.open(io.BytesIO(cat_jpeg)).resize((200, 200))
    canvas = Image.new("RGB", (400, 400), (127, 127, 127))
    canvas.paste(cat, (40, 100))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    found = explain(buffer.getvalue(), "efficientnet-lite0", 282)
    middle = found.values.shape[1] // 2
    assert found.values[:, :middle].mean() > 2 * abs(found.values[:, middle + 1 :].mean())


def test_position_of_the_map_in_the_picture(png: bytes) -> None:
    """64 x 48; the map covers the right half, with for above and against below."""
    image = decode(png, shorter_side=48, max_pixels=10**6)
    values = np.array([[1.0, 1.0], [-1.0, -1.0]])
    content = heatmap_png(values, (32.0, 0.0, 64.0, 48.0), image, over_image=False)
    layer = np.asarray(Image.open(io.BytesIO(content)))
    assert layer.shape == (48, 64, 4)
    assert (layer[:, :32, 3] == 0).all()
    red, blue = layer[2, 48], layer[45, 48]
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert red[3] > 150
    assert blue[3] > 150
    over = np.asarray(Image.open(io.BytesIO(heatmap_png(values, (32, 0, 64, 48), image, over_image=True))))
    assert over.shape == (48, 64, 3)
    assert (over[:, :32] == image.pixels[:, :32]).all()
    assert (over[2, 48] != image.pixels[2, 48]).any()


def test_a_map_of_nothing_is_transparent(png: bytes) -> None:
    image = decode(png, shorter_side=48, max_pixels=10**6)
    content = heatmap_png(np.zeros((7, 7)), (8.0, 0.0, 56.0, 48.0), image, over_image=False)
    assert np.asarray(Image.open(io.BytesIO(content)))[..., 3].max() == 0


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (2000, 3000)])
def test_a_picture_is_never_large(shape: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((*shape, 3), np.uint8)).save(buffer, "PNG")
    image = decode(buffer.getvalue(), shorter_side=256, max_pixels=10**7)
    region = crop_box(
        InputSpec(height=8, width=8, resize=8, mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="bilinear"),
        image.box,
    )
    for over_image in (False, True):
        content = heatmap_png(np.ones((7, 7)), region, image, over_image=over_image)
        assert max(Image.open(io.BytesIO(content)).size) == LONGEST_SIDE


def stored(path: Path, **arrays: np.ndarray) -> File:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    content = path.read_bytes()
    return File(name=path.name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def test_invalid_linear_head(tmp_path: Path) -> None:
    path = tmp_path / "classifier.npz"
    weight, bias = np.ones((3, 2), np.float32), np.zeros(3, np.float32)
    file = stored(path, weight=weight, bias=bias)
    head = read_linear_head(path, file, (3, 2))
    assert isinstance(head, LinearHead)
    assert (head.weight == weight).all()
    with pytest.raises(UnusableHead, match=r"shape \(3, 2\) \(needed: \(4, 2\)\)"):
        read_linear_head(path, file, (4, 2))
    with pytest.raises(UnusableHead, match="no arrays `weight` and `bias`"):
        read_linear_head(path, stored(path, weight=weight), (3, 2))
    objects = stored(path, weight=np.array([{}], dtype=object), bias=bias)
    with pytest.raises(UnusableHead, match="no arrays"):  # nothing is unpickled
        read_linear_head(path, objects, (3, 2))
    path.write_bytes(b"no archive")
    with pytest.raises(UnusableHead, match="not the one that the card describes"):
        read_linear_head(path, file, (3, 2))
    other = File(name=path.name, bytes=10, sha256=hashlib.sha256(b"no archive").hexdigest())
    with pytest.raises(UnusableHead, match="no arrays"):
        read_linear_head(path, other, (3, 2))
    path.unlink()
    with pytest.raises(UnusableHead, match="missing"):
        read_linear_head(path, file, (3, 2))


def test_no_map_without_a_known_head(zoo: Registry) -> None:
    model = zoo.get("efficientnet-lite0")
    bare = type(model)(
        model.card.model_copy(update={"classifier": None}), model.labels, model.session, model.typical_ns
    )
    with pytest.raises(NoExactMap, match="model 'efficientnet-lite0': no exact map"):
        Explainer(zoo, CorePool(1, 1), max_pixels=1).plan(bare, None)
