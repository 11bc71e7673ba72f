"""TIFF: correct samples that Pillow silently misreads, or refuse the file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import TiffImageFile

from service.errors import UndecodableImage

_BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES, _PLANAR = 258, 259, 262, 266, 277, 284
_COLOUR_MAP, _INK_SET, _DOT_RANGE, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _SUBSAMPLING = 320, 332, 336, 338, 339, 530
_WHITE_IS_ZERO, _RGB, _PALETTE, _INKS, _YCBCR = 0, 2, 3, 5, 6
_UNSIGNED, _SIGNED = 1, 2
_CONTIGUOUS, _SEPARATE = 1, 2
_UNCOMPRESSED = 1
_CMYK = 1
_BIG_ENDIAN = b"MM"


class CheckedTiff(TiffImageFile):
    """Pillow's TIFF plugin. Raises UndecodableImage for files that Pillow 13 opens but misreads.

    tests/service/inference/decoding/test_tiff_samples.py decodes files of every photometric interpretation,
    depth, sample format, fill order and planar configuration, and compares the pixels with the definitions of
    TIFF 6.0.
    """

    def _setup(self) -> None:
        tags = self.tag_v2
        if tags.get(_SAMPLES, 1) == 1 and tags.get(_PLANAR) == _SEPARATE:
            tags[_PLANAR] = _CONTIGUOUS  # a single plane has the same layout in both
        self._refuse_misread()
        colour_map = tags.get(_COLOUR_MAP, ())
        if tags.get(_PHOTOMETRIC) == _PALETTE and colour_map and max(colour_map) < 256:
            # the palette has 8-bit values where TIFF demands 16 bits; libtiff scales them, too
            tags[_COLOUR_MAP] = tuple(value * 257 for value in colour_map)
        super()._setup()

    def levels(self) -> NDArray[np.generic]:
        """Return the grey values, (H, W), of a loaded image that has more than 8 bits per sample.

        The image must have Pillow's mode I, F or I;16. 12-bit values are scaled to 16 bits. Unsigned 32-bit
        values, which Pillow reads as signed, are unsigned in the result.
        """
        values: NDArray[np.generic] = np.asarray(self)
        bits = self._bits()
        if self.mode == "I" and bits == 32 and self._sample_format() == _UNSIGNED:
            values = values.view(np.uint32)
        if bits == 12:
            values = (values.astype(np.uint32) * 65535 // 4095).astype(np.uint16)
        return values

    @property
    def white_is_zero(self) -> bool:
        """Whether 0 stands for white, so that `levels` must be inverted.

        Pillow itself inverts only samples of up to 8 bits.
        """
        return self.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO

    @property
    def declares_alpha(self) -> bool:
        """Whether the file declares its extra sample as alpha. Some writers omit the declaration."""
        return _EXTRA_SAMPLES in self.tag_v2

    def _refuse_misread(self) -> None:
        tags = self.tag_v2
        photometric, bits = tags.get(_PHOTOMETRIC), self._bits()
        uncompressed = tags.get(_COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED
        if not uncompressed and tags.prefix == _BIG_ENDIAN and self._sample_format() != _UNSIGNED:
            raise UndecodableImage(
                "TIFF: compressed big-endian samples are unsupported if signed or floating-point"
            )
        if self._sample_format() == _SIGNED and bits <= 8:
            raise UndecodableImage(
                f"TIFF: signed samples of {bits} bits are unsupported (allowed: 16 or 32 bits)"
            )
        plain = bits == 8 and tags.get(_FILL_ORDER, 1) == 1 and photometric in (_RGB, _INKS)
        if tags.get(_PLANAR, _CONTIGUOUS) == _SEPARATE and not plain:
            raise UndecodableImage("TIFF: separate planes are unsupported (allowed: 8-bit RGB or CMYK)")
        if photometric == _INKS and tags.get(_INK_SET, _CMYK) != _CMYK:
            raise UndecodableImage("TIFF: inks are unsupported (allowed: cyan, magenta, yellow, black)")
        dots = tags.get(_DOT_RANGE, (0, 255))
        if photometric == _INKS and dots[0] > dots[-1]:
            raise UndecodableImage("TIFF: inverted inks (DotRange) are unsupported")
        subsampling = tags.get(_SUBSAMPLING, (2, 2))
        if photometric == _YCBCR and uncompressed and tuple(subsampling) != (1, 1):
            raise UndecodableImage("TIFF: subsampled colours without compression are unsupported")

    def _bits(self) -> int:
        bits = self.tag_v2.get(_BITS, (1,))
        return int(max(bits, default=1))

    def _sample_format(self) -> int:
        formats = self.tag_v2.get(_SAMPLE_FORMAT, (_UNSIGNED,))
        return int(max(formats, default=_UNSIGNED))
