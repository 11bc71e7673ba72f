"""Every TIFF photometric value, depth, sample format and order: the correct pixels, or an error."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import skimage.color
from numpy.typing import NDArray

from service.errors import UndecodableImage
from service.inference.decoding.decode import decode
from tests.helpers.tiffs import FLOAT, SIGNED, UNSIGNED, tiff

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow warns of odd tags

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, INKS, YCBCR, LAB, ICC_LAB, ITU_LAB = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    9,
    10,
)
COLOUR_FILTER_ARRAY, LINEAR_RAW = 32803, 34892
PHOTOMETRIC = {
    WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, MASK: 1, INKS: 4, YCBCR: 3, LAB: 3, ICC_LAB: 3,
    ITU_LAB: 3, COLOUR_FILTER_ARRAY: 1, LINEAR_RAW: 3,
}  # fmt: skip
BITS = (1, 2, 4, 6, 8, 10, 12, 14, 16, 24, 32, 64)
HEIGHT, WIDTH = 5, 8


def samples_of(count: int, bits: int, sample_format: int) -> NDArray[np.generic]:
    """Samples over the whole range of the type, minimum and maximum included."""
    random = np.random.default_rng(bits * 10 + sample_format)
    share = random.random((HEIGHT, WIDTH, count))
    share[0, 0], share[-1, -1] = 0, 1
    if sample_format == FLOAT:
        return share.astype({16: "f2", 32: "f4", 64: "f8"}[bits])
    top = 2**bits - 1
    values = np.array([min(top, int(part * top)) for part in share.ravel()], dtype=object).reshape(
        share.shape
    )
    if sample_format == SIGNED:
        values = values - 2 ** (bits - 1)
    size = next(size for size in (8, 16, 32, 64) if size >= bits)
    return values.astype(f"{'i' if sample_format == SIGNED else 'u'}{size // 8}")


def shares(samples: NDArray[np.generic], bits: int, sample_format: int) -> NDArray[np.float64]:
    """Scale samples to 0 to 1 over their range."""
    values = samples.astype(np.float64)
    if sample_format == FLOAT:
        return values
    return (values + (2 ** (bits - 1) if sample_format == SIGNED else 0)) / (2**bits - 1)


def palette_of(bits: int) -> NDArray[np.uint16]:
    return np.random.default_rng(7).integers(0, 65536, (3, 2**bits)).astype(np.uint16)


def expected(
    samples: NDArray[np.generic], photometric: int, bits: int, sample_format: int
) -> NDArray[np.float64]:
    """Expected RGB (H, W, 3), 0 to 255, by the definitions of TIFF 6.0."""
    share = shares(samples, bits, sample_format)
    match photometric:
        case 0:
            return np.repeat(255 * (1 - share), 3, axis=2)
        case 1:
            return np.repeat(255 * share, 3, axis=2)
        case 2:
            return 255 * share
        case 3:
            return palette_of(bits)[:, samples[:, :, 0].astype(int)].transpose(1, 2, 0) / 257
        case 5:
            return 255 * (1 - share[:, :, :3]) * (1 - share[:, :, 3:])
        case 6:
            y, cb, cr = 255 * share[..., 0], 255 * share[..., 1] - 128, 255 * share[..., 2] - 128
            rgb = [y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb]
            return np.clip(np.stack(rgb, axis=2), 0, 255)
    raise AssertionError("this one must have been refused")


# Bradford's adaptation from D65, sRGB's white, to D50, that of CIE L*a*b* in files (lindbloom.com).
D65_TO_D50 = np.array(
    [
        [1.0478112, 0.0228866, -0.0501270],
        [0.0295424, 0.9904844, -0.0170491],
        [-0.0092345, 0.0150436, 0.7521316],
    ]
)


def lab_and_rgb() -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """CIE L*a*b* samples as TIFF has them, L* over 0 to 255, a* and b* as signed bytes, and their RGB."""
    rgb = np.random.default_rng(3).random((HEIGHT, WIDTH, 3)) * 0.6 + 0.2
    lab = skimage.color.xyz2lab(skimage.color.rgb2xyz(rgb) @ D65_TO_D50.T, illuminant="D50")
    lab[..., 0] *= 2.55
    return np.round(lab).astype(np.int16).astype(np.uint8), 255 * rgb


@pytest.mark.parametrize("deflate", [False, True], ids=["uncompressed", "deflate"])
@pytest.mark.parametrize("photometric", PHOTOMETRIC)
@pytest.mark.parametrize(
    ("bits", "sample_format"),
    [(bits, kind) for kind in (UNSIGNED, SIGNED) for bits in BITS] + [(bits, FLOAT) for bits in (16, 32, 64)],
)
def test_correct_pixels_or_refused(photometric: int, bits: int, sample_format: int, deflate: bool) -> None:
    samples = samples_of(PHOTOMETRIC[photometric], bits, sample_format)
    right: NDArray[np.float64] | None = None
    if photometric == LAB and (bits, sample_format) == (8, UNSIGNED):
        samples, right = lab_and_rgb()
    tags: dict[int, list[int]] = {530: [1, 1]} if photometric == YCBCR else {}
    if photometric == PALETTE and bits <= 8:
        tags[320] = palette_of(bits).ravel().tolist()
    read = 0
    for order, fill_order, planar in itertools.product("<>", (1, 2), (1, 2)):
        data = tiff(
            samples, photometric=photometric, bits=bits, order=order, fill_order=fill_order, planar=planar,
            sample_format=sample_format, tags=tags, deflate=deflate,
        )  # fmt: skip
        try:
            pixels = decode(data, shorter_side=5, max_pixels=1000).pixels
        except UndecodableImage:
            continue
        if right is None:
            right = expected(samples, photometric, bits, sample_format)
        off = np.abs(pixels - right).max()
        assert off <= (8 if photometric == LAB else 1.2), (order, fill_order, planar)
        read += 1
    if (photometric, bits, sample_format) in COMMON:
        assert read >= 2


COMMON = {(BLACK_IS_ZERO, bits, UNSIGNED) for bits in (1, 2, 4, 8, 16)}
COMMON |= {(WHITE_IS_ZERO, bits, UNSIGNED) for bits in (1, 2, 4, 8)} | {(PALETTE, 4, UNSIGNED)}
COMMON |= {(RGB, 8, UNSIGNED), (RGB, 16, UNSIGNED), (PALETTE, 8, UNSIGNED), (INKS, 8, UNSIGNED)}
COMMON |= {(YCBCR, 8, UNSIGNED), (LAB, 8, UNSIGNED), (BLACK_IS_ZERO, 32, FLOAT)}


EXTRA = {
    "unspecified": (0, lambda colour, _: colour),
    "associated alpha": (1, lambda colour, alpha: np.minimum(colour, alpha) + 255 - alpha),
    "alpha": (2, lambda colour, alpha: colour * alpha / 255 + 255 - alpha),
}


@pytest.mark.parametrize("name", EXTRA)
@pytest.mark.parametrize("more", [0, 1, 2])
@pytest.mark.parametrize(("photometric", "bits"), [(RGB, 8), (RGB, 16), (BLACK_IS_ZERO, 8), (INKS, 8)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_extra_samples(name: str, more: int, photometric: int, bits: int, order: str) -> None:
    kind, over_white = EXTRA[name]
    colours = {RGB: 3, BLACK_IS_ZERO: 1, INKS: 4}[photometric]
    samples = samples_of(colours + 1 + more, bits, UNSIGNED)
    if name == "associated alpha":
        samples[..., :colours] = np.minimum(samples[..., :colours], samples[..., [colours]])
    data = tiff(
        samples, photometric=photometric, bits=bits, order=order, extra_samples=[kind] + [0] * more
    )  # fmt: skip
    try:
        pixels = decode(data, shorter_side=5, max_pixels=1000).pixels
    except UndecodableImage:
        assert (photometric, bits, more) != (RGB, 8, 0)
        return
    colour = expected(samples[..., :colours], photometric, bits, UNSIGNED)
    right = over_white(colour, 255 * shares(samples[..., [colours]], bits, UNSIGNED))
    assert np.abs(pixels - right).max() <= 2


def test_a_palette_written_with_8_bits() -> None:
    samples = samples_of(1, 4, UNSIGNED)
    colour_map = np.random.default_rng(7).integers(0, 256, (3, 16))
    data = tiff(samples, photometric=PALETTE, bits=4, tags={320: colour_map.ravel().tolist()})
    pixels = decode(data, shorter_side=5, max_pixels=1000).pixels
    np.testing.assert_array_equal(pixels, colour_map[:, samples[:, :, 0].astype(int)].transpose(1, 2, 0))


def test_inks_other_than_cmyk() -> None:
    data = tiff(samples_of(4, 8, UNSIGNED), photometric=INKS, bits=8, tags={332: [2]})
    with pytest.raises(UndecodableImage, match="inks are unsupported"):
        decode(data, shorter_side=5, max_pixels=1000)


@pytest.mark.parametrize("tags", [{}, {530: [2, 2]}, {530: [2, 1]}])
def test_uncompressed_subsampled_colours(tags: dict[int, list[int]]) -> None:
    data = tiff(samples_of(3, 8, UNSIGNED), photometric=YCBCR, bits=8, tags=tags)
    with pytest.raises(UndecodableImage, match="subsampled"):
        decode(data, shorter_side=5, max_pixels=1000)


def test_inverted_inks() -> None:
    data = tiff(samples_of(4, 8, UNSIGNED), photometric=INKS, bits=8, tags={336: [255, 0]})
    with pytest.raises(UndecodableImage, match="inverted inks"):
        decode(data, shorter_side=5, max_pixels=1000)


def test_undeclared_zero_alpha_is_opaque() -> None:
    samples = samples_of(4, 8, UNSIGNED)
    samples[..., 3] = 0
    pixels = decode(tiff(samples, photometric=RGB, bits=8), shorter_side=5, max_pixels=1000).pixels
    np.testing.assert_array_equal(pixels, samples[..., :3])
